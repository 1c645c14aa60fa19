"""Superkingdom, phylum and genus of taxids, through ete3 on a given NCBI taxdump.

The database is built once per taxdump, in the workspace; nothing is downloaded and the home
directory is not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from data_prep.errors import InputError
from gpuwork.registry import TASKS
from gpuwork.workspace import Workspace

LEVELS = TASKS["taxonomy"].levels
RANKS = {
    "superkingdom": "superkingdom",
    "domain": "superkingdom",
    "acellular root": "superkingdom",
    "phylum": "phylum",
    "genus": "genus",
}
"""NCBI's rank to our level. In 2025 superkingdom became domain, and acellular root for viruses."""

UNKNOWN = "unknown to the taxdump"
DELETED = "deleted by NCBI"

_REQUIRED = ("nodes.dmp", "names.dmp", "merged.dmp")
_DELETED = "delnodes.dmp"
_BLOCK = 1000
"""Taxids per SQL query: sqlite refuses statements of more than a megabyte."""

_BUILD = "import sys; from ete3 import NCBITaxa; NCBITaxa(sys.argv[1], taxdump_file=sys.argv[2])"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What the taxdump says about one taxid.

    Attributes
    ----------
    taxid
        As asked for.
    current
        Taxid in use; differs from `taxid` if that was merged. None if there is none.
    taxa
        Level to (taxid, scientific name); levels that the lineage does not have are absent.
    is_deleted
        The taxdump lists the taxid as deleted.
    """

    taxid: int
    current: int | None
    taxa: Mapping[str, tuple[int, str]]
    is_deleted: bool = False


def digest(taxdump: Path) -> str:
    """SHA-256 of the taxdump's content, the same for a directory and its .tar.gz.

    Raises
    ------
    InputError
        No taxdump there, or one of its tables is missing.
    """
    sha = hashlib.sha256()
    found = set()
    for name, file in _tables(taxdump):
        found.add(name)
        sha.update(f"{name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    if absent := [name for name in _REQUIRED if name not in found]:
        raise InputError(
            f"{taxdump}: lacks {', '.join(absent)}; give NCBI's taxdump.tar.gz or a directory with "
            "its files"
        )
    return sha.hexdigest()


def database(taxdump: Path, *, sha256: str, workspace: Workspace) -> Path:
    """The ete3 database of a taxdump, built on first use; minutes for the whole of NCBI.

    Safe when several processes build at once: each builds aside, the first to finish is kept.

    Parameters
    ----------
    sha256
        What `digest` says of `taxdump`.

    Raises
    ------
    InputError
        ete3 cannot read the taxdump.
    """
    folder = workspace.taxonomy(sha256)
    path = folder / "taxa.sqlite"
    if path.exists():
        return path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as name:
        scratch, built = Path(name), Path(name) / "built"
        built.mkdir()
        _build(taxdump, database=built / path.name, scratch=scratch)
        try:
            built.rename(folder)
        except OSError:
            if not path.exists():  # else another process has been faster
                raise
    return path


def lineages(taxids: Iterable[int], *, database: Path, taxdump: Path) -> dict[int, Lineage]:
    """Look taxids up; merged ones are followed, missing ones are told apart from deleted ones."""
    ncbi = _open(database)
    with contextlib.closing(ncbi.db):
        current = _current(sorted(set(taxids)), ncbi=ncbi)
        tracks = {
            taxid: track
            for block in _blocks({taxid for taxid in current.values() if taxid is not None})
            for taxid, track in ncbi.get_lineage_translator(block).items()
        }
        level_of = {
            taxon: RANKS[rank]
            for block in _blocks({taxon for track in tracks.values() for taxon in track})
            for taxon, rank in ncbi.get_rank(block).items()
            if rank in RANKS
        }
        name_of = {
            taxon: name
            for block in _blocks(level_of)
            for taxon, name in ncbi.get_taxid_translator(block).items()
        }
    deleted = _deleted(taxdump) if None in current.values() else frozenset()
    return {
        taxid: Lineage(
            taxid,
            now,
            {level_of[x]: (x, name_of[x]) for x in tracks.get(now, ()) if x in level_of},
            is_deleted=taxid in deleted,
        )
        for taxid, now in current.items()
    }


def _current(taxids: list[int], *, ncbi: Any) -> dict[int, int | None]:
    """Every taxid with the one in use: itself, what it was merged into, or None."""
    known = {taxid for block in _blocks(taxids) for taxid in ncbi.get_rank(block)}
    current: dict[int, int | None] = {}
    for taxid in taxids:
        current[taxid] = taxid
        if taxid not in known:
            with warnings.catch_warnings():  # ete3 warns of every merged taxid; they are reported
                warnings.simplefilter("ignore", UserWarning)
                try:
                    # None for taxid 0, which some tools write for "unclassified".
                    current[taxid] = (ncbi.get_lineage(taxid) or [None])[-1]
                except ValueError:  # ete3's "taxid not found"
                    current[taxid] = None
    return current


def _blocks(taxids: Iterable[int]) -> Iterator[list[int]]:
    ordered = sorted(taxids)
    for start in range(0, len(ordered), _BLOCK):
        yield ordered[start : start + _BLOCK]


def _open(database: Path) -> Any:
    """An ete3 NCBITaxa on an existing database: with `update` off it never builds or downloads."""
    with warnings.catch_warnings():
        # ete3 3.1.3 imports the deprecated cgi and has invalid escapes in its strings.
        for category in (DeprecationWarning, SyntaxWarning):
            warnings.filterwarnings("ignore", category=category, module=".*ete3")
        from ete3 import NCBITaxa
    return NCBITaxa(str(database), update=False)


def _build(taxdump: Path, *, database: Path, scratch: Path) -> None:
    """Run ete3 in a process of its own: it writes into the working directory and prints a lot."""
    archive = scratch / "taxdump.tar"
    with tarfile.open(archive, "w") as tar:
        for name, file in _tables(taxdump):
            table = tarfile.TarInfo(name)
            table.size = file.seek(0, os.SEEK_END)
            file.seek(0)
            tar.addfile(table, file)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _BUILD, str(database), archive.name],
        cwd=scratch,
        env={**os.environ, "HOME": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{taxdump}: ete3 cannot read it ({reason}); give an unchanged taxdump")


def _tables(taxdump: Path) -> Iterator[tuple[str, io.BufferedReader]]:
    """The tables that matter, each with its open content, in a fixed order."""
    names = (*_REQUIRED, _DELETED)
    if taxdump.is_dir():
        for name in names:
            if (taxdump / name).is_file():
                with (taxdump / name).open("rb") as file:
                    yield name, file
        return
    try:
        with tarfile.open(taxdump, "r") as tar:
            members = {Path(member.name).name: member for member in tar if member.isfile()}
            for name in names:
                if name in members:
                    yield name, cast("io.BufferedReader", tar.extractfile(members[name]))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(
            f"{taxdump}: no taxdump ({error}); give NCBI's taxdump.tar.gz or a directory with its "
            "files"
        ) from error


def _deleted(taxdump: Path) -> frozenset[int]:
    """Taxids in delnodes.dmp; empty where the taxdump has none."""
    for name, file in _tables(taxdump):
        if name == _DELETED:
            return frozenset(int(line.split(b"|")[0]) for line in file)
    return frozenset()


def refusal(lineage: Lineage, *, superkingdom: str) -> str | None:
    """Why fragments of a taxid are dropped; None if they are kept.

    Parameters
    ----------
    superkingdom
        The one that the input lists the taxid under.
    """
    if lineage.current is None:
        return DELETED if lineage.is_deleted else UNKNOWN
    if absent := [level for level in LEVELS if level not in lineage.taxa]:
        return f"no {' and no '.join(absent)} in its lineage"
    actual = lineage.taxa["superkingdom"][1]
    if actual != superkingdom:
        return f"listed under {superkingdom}, belongs to {actual}"
    return None

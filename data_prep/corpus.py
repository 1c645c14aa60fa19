"""From FASTA to ``corpus/<name>.h5``: read, label, split, write.

``python -m data_prep.corpus NAME --taxdump PATH (--manifest TSV | --fragments DIR)``
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from data_prep import fragment, ledger, taxonomy
from data_prep.errors import InputError
from data_prep.fragment import Fragments, Source
from data_prep.labels import Labels, label, origins
from data_prep.ledger import Row
from data_prep.split import stratified
from gpuwork import layouts, schema
from gpuwork.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What beside the input decides about a corpus.

    Attributes
    ----------
    fragment_bp
        Length of a window of a genome; None where the input is ready fragments.
    test_share, validation_share
        Of all fragments, and of the rest.
    drop_classes_below
        Genera with fewer fragments are left out; 0 keeps all.
    """

    fragment_bp: int | None = 1500
    test_share: float = 0.02
    validation_share: float = 0.10
    seed: int = 42
    drop_classes_below: int = 0
    drop_unknown_taxids: bool = False


def build(
    workspace: Workspace, *, name: str, source: Path, taxdump: Path, options: Options
) -> list[Row]:
    """Make a corpus and the report beside it.

    Parameters
    ----------
    source
        Manifest of genomes, or directory of ready fragments where `options.fragment_bp` is None.

    Returns
    -------
    list of Row
        The report; empty where the same corpus is there already.

    Raises
    ------
    InputError
        Bad input or options, or a corpus of that name made from something else.
    gpuwork.schema.SchemaError
        The corpus that is there is damaged.
    """
    _check(name, options)
    target = workspace.corpus(name)
    is_ready = options.fragment_bp is None
    list_sources = fragment.directory_sources if is_ready else fragment.manifest_sources
    sources = list_sources(source)
    taxdump_sha256 = taxonomy.digest(taxdump)
    files = {file.name: file.path for file in sources} | ({} if is_ready else {source.name: source})
    inputs = {file: _sha256(path) for file, path in files.items()} | {"taxdump": taxdump_sha256}
    if _is_made(target, inputs=inputs, options=options):
        return []
    fragments, labels, dropped = _labeled(
        sources, taxdump=taxdump, sha256=taxdump_sha256, workspace=workspace, options=options
    )
    split = stratified(
        labels.label["genus"],
        names=labels.names["genus"],
        test_share=options.test_share,
        validation_share=options.validation_share,
        seed=options.seed,
    )
    rows = _report(fragments, labels=labels, split=split, dropped=dropped)
    with schema.write(target, "corpus") as file:
        file.attrs["name"] = name
        file.attrs["inputs_sha256"] = json.dumps(inputs, sort_keys=True)
        file.attrs["options"] = json.dumps(asdict(options), sort_keys=True)
        file.attrs["seed"] = options.seed
        file.attrs["split_rule"] = (
            f"stratified by genus: {options.test_share:g} of all test, "
            f"{options.validation_share:g} of the rest validation"
        )
        _fill(file, fragment.select(fragments, labels.kept), labels=labels, split=split)
        schema.put(file, "file", [file.name for file in sources], layout="corpus")
        ledger.write(target.with_suffix(".report.tsv"), rows)
    return rows


def content_sha256(
    columns: Mapping[str, npt.NDArray[Any]], *, names: Mapping[str, Sequence[str]]
) -> str:
    """Digest of what a corpus contains, wherever it came from and however it is stored.

    Parameters
    ----------
    columns
        bases, offset, split, group and the label of every level, under their names in the file.
    names
        Class names of every level.
    """
    sha = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
    for name, values in sorted(columns.items()):
        sha.update(f"\n{name} {values.dtype.name} {values.size}\n".encode())
        sha.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
    return sha.hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Make a corpus and print what was kept and dropped."""
    args = _arguments(argv)
    options = Options(
        fragment_bp=args.fragment_bp if args.manifest else None,
        test_share=args.test_share,
        validation_share=args.validation_share,
        seed=args.seed,
        drop_classes_below=args.drop_classes_below,
        drop_unknown_taxids=args.drop_unknown_taxids,
    )
    workspace = Workspace.locate(args.site)
    source = args.manifest or args.fragments
    try:
        rows = build(
            workspace, name=args.name, source=source, taxdump=args.taxdump, options=options
        )
    except (InputError, schema.SchemaError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    console, target = Console(), workspace.corpus(args.name)
    if rows:
        console.print(ledger.table(rows, title=f"corpus {args.name}"))
        console.print(f"wrote {target} and, in full, the report beside it", soft_wrap=True)
    else:
        console.print(f"{target} is there already, made from this: nothing to do", soft_wrap=True)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    usual = Options()
    parser = argparse.ArgumentParser(prog="python -m data_prep.corpus", description=__doc__)
    add = parser.add_argument
    add("name", metavar="NAME", help="letters, digits, _ and -")
    add("--taxdump", type=Path, required=True, help="NCBI taxdump: .tar.gz or directory")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", type=Path, metavar="TSV", help="genomes to cut")
    source.add_argument("--fragments", type=Path, metavar="DIR", help="<superkingdom>_db.fa files")
    add("--fragment-bp", type=int, default=usual.fragment_bp, help="of genomes; %(default)s")
    add("--test-share", type=float, default=usual.test_share, help="of all; %(default)s")
    add(
        "--validation-share",
        type=float,
        default=usual.validation_share,
        help="of the rest; %(default)s",
    )
    add("--seed", type=int, default=usual.seed, help="of the split; %(default)s")
    add("--drop-classes-below", type=int, default=0, metavar="N", help="leave out smaller genera")
    add("--drop-unknown-taxids", action="store_true", help="leave out instead of refusing")
    add("--site", type=Path, default=Path("site.toml"), metavar="TOML")
    return parser.parse_args(argv)


def _check(name: str, options: Options) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"corpus name {name!r}: use letters, digits, _ and - only")
    if options.fragment_bp is not None and options.fragment_bp < 1:
        raise InputError(f"--fragment-bp {options.fragment_bp}: must be 1 or more")
    if not 0 <= options.seed < 1 << 32:
        raise InputError(f"--seed {options.seed}: must be 0 or above and below 2^32")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _is_made(target: Path, *, inputs: Mapping[str, str], options: Options) -> bool:
    """Whether the corpus is there; an error if it is, but from other input or options."""
    if not target.exists():
        return False
    schema.check(target, "corpus")
    with h5py.File(target, "r", locking=False) as file:
        before = {
            "input": json.loads(file.attrs["inputs_sha256"]),
            "options": json.loads(file.attrs["options"]),
        }
    changed = {"input": dict(inputs), "options": asdict(options)}
    if different := [part for part in changed if changed[part] != before[part]]:
        raise InputError(
            f"{target} was made from other {' and '.join(different)}; choose another name, or "
            "delete the file"
        )
    return True


def _labeled(
    sources: Sequence[Source],
    *,
    taxdump: Path,
    sha256: str,
    workspace: Workspace,
    options: Options,
) -> tuple[Fragments, Labels, list[Row]]:
    """Read the sources and label what they hold; the rows say what is dropped."""
    console = Console(stderr=True)
    quiet = not console.is_terminal
    progress = track(sources, "reading", console=console, transient=True, disable=quiet)
    fragments = fragment.read(progress, fragment_bp=options.fragment_bp or 0)
    with console.status("looking taxids up (minutes on first use of a full taxdump)"):
        database = taxonomy.database(taxdump, sha256=sha256, workspace=workspace)
        taxids = np.unique(fragments.taxid).tolist()
        lineages = taxonomy.lineages(taxids, database=database, taxdump=taxdump)
    labels, dropped = label(
        origins(fragments, sources=sources, lineages=lineages),
        lineages=lineages,
        drop_classes_below=options.drop_classes_below,
        drop_unknown_taxids=options.drop_unknown_taxids,
    )
    return fragments, labels, dropped


def _report(
    fragments: Fragments,
    *,
    labels: Labels,
    split: npt.NDArray[np.uint8],
    dropped: Sequence[Row],
) -> list[Row]:
    """All rows, the short sections first."""
    rows = [Row("read", "fragments", len(fragments.taxid))]
    rows += [Row("not read", why, number) for why, number in sorted(fragments.dropped.items())]
    taxa, number = Counter[str](), Counter[str]()
    for row in dropped:
        if row.section in ledger.DROPPED:
            taxa[row.note] += 1
            number[row.note] += row.number
    rows += [Row("dropped", why, number[why], f"taxa: {taxa[why]}") for why in sorted(taxa)]
    rows.append(Row("kept", "fragments", len(labels.kept)))
    per_split = np.bincount(split, minlength=len(layouts.SPLITS))
    rows += [Row("split", name, int(n)) for name, n in zip(layouts.SPLITS, per_split, strict=True)]
    rows += [Row("classes", level, len(names)) for level, names in labels.names.items()]
    rows += dropped
    for level, names in labels.names.items():
        counts = np.zeros((len(names), len(layouts.SPLITS)), dtype=np.int64)
        np.add.at(counts, (labels.label[level], split), 1)
        for name, count in zip(names, counts.tolist(), strict=True):
            parts = ", ".join(f"{s} {n}" for s, n in zip(layouts.SPLITS, count, strict=True))
            rows.append(Row("class", f"{level}: {name}", sum(count), parts))
    return rows


def _fill(
    file: h5py.File, kept: Fragments, *, labels: Labels, split: npt.NDArray[np.uint8]
) -> None:
    columns: dict[str, npt.NDArray[Any]] = {
        "bases": kept.bases,
        "offset": kept.offset,
        "split": split,
        "group": labels.group,
        **{f"label/{level}": label for level, label in labels.label.items()},
    }
    file.attrs["levels"] = list(labels.names)
    file.attrs["content_sha256"] = content_sha256(columns, names=labels.names)
    columns |= {"record/file": kept.source, "record/index": kept.record}
    for name, values in columns.items():
        schema.put(file, name, values, layout="corpus")
    for level, names in labels.names.items():
        schema.put(file, f"class/{level}", names, layout="corpus")


if __name__ == "__main__":
    sys.exit(main())

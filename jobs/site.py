"""site.toml: what differs between a laptop and each cluster, read strictly."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from gpuwork.workspace import Workspace

EXECUTORS = ("auto", "local", "slurm")
DEVICES = ("auto", "cpu", "cuda")


class SiteError(ValueError):
    """A site.toml that cannot be used: file, section, key, what was got, what is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathsSection:
    """``[paths]``: `root` holds corpora, models, runs, results; see `Workspace.locate`."""

    root: str = "work"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSection:
    """``[execution]``.

    Attributes
    ----------
    executor
        ``slurm``, ``local``, or ``auto``: slurm where its commands are on the PATH and it is
        either described in this file or answers.
    device
        ``cpu``, ``cuda``, or ``auto``: under SLURM cuda where `gres` is asked for, elsewhere cuda
        where an NVIDIA device is found.
    """

    executor: str = "auto"
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSection:
    """``[local]``: the pool that runs cells on this machine.

    Attributes
    ----------
    threads
        CPU threads of one cell.
    cells_at_once
        None: as many as the cores allow, or one per GPU.
    """

    threads: int = 1
    cells_at_once: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSection:
    """``[slurm]``: what every array task asks for; None leaves the choice to the cluster.

    Attributes
    ----------
    merge_partition
        Where the merge job runs, which needs no GPU; None: `partition`.
    gres
        Generic resource of one cell; empty for CPU cells.
    cpus_per_task, mem_gb
        Per cell.
    minutes_limit
        Longest time limit to ask for. A cell that needs more is stopped and queued again.
    array_parallelism
        Cells of one submission that may run at a time, over all its arrays.
    max_array_size
        Most elements of one array; None: what the controller says.
    setup
        Shell lines before the worker, such as ``module load``.
    """

    partition: str | None = None
    merge_partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str = "gpu:1"
    cpus_per_task: int = 8
    mem_gb: int = 32
    minutes_limit: int = 1440
    array_parallelism: int = 64
    max_array_size: int | None = None
    setup: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """All of site.toml.

    Attributes
    ----------
    file
        Absolute path it was read from; need not exist.
    describes_slurm
        The file has a ``[slurm]`` section.
    """

    file: Path
    paths: PathsSection = field(default_factory=PathsSection)
    execution: ExecutionSection = field(default_factory=ExecutionSection)
    local: LocalSection = field(default_factory=LocalSection)
    slurm: SlurmSection = field(default_factory=SlurmSection)
    describes_slurm: bool = False

    @property
    def workspace(self) -> Workspace:
        """The directories below ``[paths] root``."""
        return Workspace((self.file.parent / self.paths.root).resolve())

    @property
    def arguments(self) -> list[str]:
        """How another command of the project is told of this site; nothing where there is none."""
        return ["--site", str(self.file)] if self.file.exists() else []


SECTIONS: dict[str, type[Any]] = {
    "paths": PathsSection,
    "execution": ExecutionSection,
    "local": LocalSection,
    "slurm": SlurmSection,
}
_CHOICES = {"executor": EXECUTORS, "device": DEVICES}
_MEANT = {tuple: "a list of texts in quotes", int: "a whole number above 0", str: "text in quotes"}


def read_site(file: Path, *, must_exist: bool = False) -> Site:
    """Read and check site.toml; the defaults of a laptop where there is none.

    Raises
    ------
    SiteError
        Not TOML, an unknown section or key, a value of the wrong type.
    """
    file = file.resolve()
    if must_exist and not file.exists():
        raise SiteError(f"{file}: no such file; copy site.example.toml and edit it")
    if not file.exists():
        return Site(file=file)
    try:
        entries = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteError(f"{file}: not TOML: {error}") from error
    sections = {}
    for name, values in entries.items():
        _check_known(name, SECTIONS, where=f"{file}: unknown section")
        if not isinstance(values, dict):
            raise SiteError(f"{file}: {name} is {values!r}; it must be a section: [{name}]")
        sections[name] = _section(SECTIONS[name], values, where=f"{file}: [{name}]")
    return Site(file=file, describes_slurm="slurm" in sections, **sections)


def _section(kind: type[Any], values: Mapping[str, Any], *, where: str) -> Any:
    """One section from its keys, each checked against the type of its field."""
    hints = get_type_hints(kind)
    checked = {}
    for key, value in values.items():
        _check_known(key, (known.name for known in fields(kind)), where=f"{where}: unknown key")
        hint = hints[key]
        wanted = next(kept for kept in _MEANT if kept in (hint, get_origin(hint), *get_args(hint)))
        if not _fits(value, wanted):
            raise SiteError(f"{where} {key} is {value!r}; it must be {_MEANT[wanted]}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise SiteError(f"{where} {key} is {value!r}; known: {', '.join(_CHOICES[key])}")
        checked[key] = tuple(value) if wanted is tuple else value
    return kind(**checked)


def _fits(value: Any, wanted: type) -> bool:
    if wanted is tuple:
        return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    if wanted is int:
        return type(value) is int and value > 0
    return isinstance(value, str)


def _check_known(got: str, known: Iterable[str], *, where: str) -> None:
    names = tuple(known)
    if got not in names:
        close = difflib.get_close_matches(got, names, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise SiteError(f"{where} {got!r}{meant} Known: {', '.join(names)}")

"""Recipe, Cell, Execution and cell_id: the values that everything else is a function of.

Frozen, made of primitives, checked when made. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_type_hints

from gpuwork.registry import BACKBONES, STRATEGIES, TASKS

CELL_VERSION = 1
"""Part of every cell id: raised when the meaning of a field changes."""

SCHEDULES = ("cosine",)
PRECISIONS = ("fp32", "tf32", "bf16")
POOLINGS = ("mean",)
_POSITIVE = ("learning_rate", "effective_batch", "epochs", "patience", "clip_norm", "max_tokens")
ALPHA_RULES: dict[str, tuple[float, float]] = {"constant_32": (32.0, 0.0), "twice_rank": (0.0, 2.0)}
"""LoRA's alpha = constant + factor x rank. Berman et al. 2025 kept 32 at every rank."""


class SpecError(ValueError):
    """A cell, or a name in it, that cannot exist; the message says what would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a cell trains. All of it is science: a change makes another cell.

    Attributes
    ----------
    effective_batch
        Sequences per optimizer step = micro-batch x accumulation x ranks, always exactly.
    patience
        Epochs without a lower validation loss after which training stops.
    warmup_fraction
        Share of all steps with a linearly rising learning rate.
    clip_norm
        Largest norm of the gradient.
    max_tokens
        Longer sequences are cut at the end.
    alpha_rule, adapter_dropout
        LoRA only, else None. The rule names an entry of `ALPHA_RULES`.
    """

    learning_rate: float
    effective_batch: int
    epochs: int
    patience: int
    schedule: str = "cosine"
    warmup_fraction: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: str = "fp32"
    pooling: str = "mean"
    max_tokens: int = 512
    alpha_rule: str | None = None
    adapter_dropout: float | None = None

    def __post_init__(self) -> None:
        _check_types("recipe.", self)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("alpha_rule", self.alpha_rule, (None, *ALPHA_RULES))
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise SpecError(f"recipe.{name} is {getattr(self, name)!r}; it must be above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise SpecError(f"recipe.weight_decay is {self.weight_decay}; it must be 0 or above")
        if not 0 <= self.warmup_fraction < 1:
            raise SpecError(f"recipe.warmup_fraction is {self.warmup_fraction}; 0 <= it < 1")
        if self.adapter_dropout is not None and not 0 <= self.adapter_dropout < 1:
            raise SpecError(f"recipe.adapter_dropout is {self.adapter_dropout}; 0 <= it < 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of a grid: what is trained, on what, how. Checked when it is made.

    Attributes
    ----------
    corpus
        Name of the corpus file, ``corpus/<corpus>.h5``.
    corpus_sha256
        Digest of the corpus' content; None until the cell is bound to a corpus that exists.
    rank
        None where the strategy has none.
    heads
        ``trained``, or ``frozen`` at their random start (as in Berman et al. 2025 under PEFT).
    """

    task: str
    corpus: str
    backbone: str
    strategy: str
    heads: str
    seed: int
    recipe: Recipe
    rank: int | None = None
    corpus_sha256: str | None = None

    def __post_init__(self) -> None:
        _check_types("", self)
        _check_choice("task", self.task, TASKS)
        _check_choice("backbone", self.backbone, BACKBONES)
        _check_choice("strategy", self.strategy, STRATEGIES)
        strategy, backbone = STRATEGIES[self.strategy], BACKBONES[self.backbone]
        _check_choice(f"heads of strategy {self.strategy!r}", self.heads, strategy.heads)
        if self.seed < 0:
            raise SpecError(f"seed is {self.seed}; it must be 0 or above")
        given = (self.rank, self.recipe.alpha_rule, self.recipe.adapter_dropout)
        if strategy.has_rank and (None in given or (self.rank or 0) < 1):
            raise SpecError(
                f"strategy {self.strategy!r} needs a rank of 1 or more, an alpha_rule and an "
                f"adapter_dropout; got rank={self.rank}, alpha_rule={self.recipe.alpha_rule!r}, "
                f"adapter_dropout={self.recipe.adapter_dropout}"
            )
        if not strategy.has_rank and given != (None, None, None):
            raise SpecError(
                f"strategy {self.strategy!r} has no rank, alpha_rule or adapter_dropout; got "
                f"{given}; leave them None (ranks exist for: "
                f"{', '.join(s.name for s in STRATEGIES.values() if s.has_rank)})"
            )
        if self.recipe.max_tokens > backbone.context_tokens:
            raise SpecError(
                f"recipe.max_tokens is {self.recipe.max_tokens}, but {self.backbone} was trained "
                f"for {backbone.context_tokens} tokens; set max_tokens to that or less"
            )

    @property
    def alpha(self) -> float | None:
        """LoRA's alpha by the recipe's rule; None where the strategy has no rank."""
        if self.rank is None or self.recipe.alpha_rule is None:
            return None
        constant, factor = ALPHA_RULES[self.recipe.alpha_rule]
        return constant + factor * self.rank

    @property
    def levels(self) -> tuple[str, ...]:
        """Label levels of the cell's task, coarse to fine."""
        return TASKS[self.task].levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a cell is executed on a given machine. Never changes what the cell is.

    Attributes
    ----------
    device
        ``cpu`` or ``cuda``.
    micro_batch
        Sequences per forward and backward pass of one rank.
    ranks
        Processes that share the effective batch.
    threads
        Threads of one rank on the CPU.
    checkpoint_interval_s
        Seconds between periodic checkpoints.
    """

    device: str
    micro_batch: int
    ranks: int = 1
    threads: int = 1
    checkpoint_interval_s: float = 600.0


def accumulation(cell: Cell, execution: Execution) -> int:
    """Micro-batches per optimizer step, so that the effective batch is exact.

    Raises
    ------
    SpecError
        The effective batch is no multiple of micro-batch x ranks.
    """
    at_once = execution.micro_batch * execution.ranks
    if at_once < 1 or cell.recipe.effective_batch % at_once:
        raise SpecError(
            f"effective batch {cell.recipe.effective_batch} is no multiple of micro-batch "
            f"{execution.micro_batch} x ranks {execution.ranks}; choose a divisor"
        )
    return cell.recipe.effective_batch // at_once


def science(cell: Cell) -> dict[str, Any]:
    """Everything that defines the cell, resolved, as one JSON-ready mapping.

    The backbone's row goes in as a whole and alpha as a number, so a changed table never lets an
    old result answer for a new experiment.
    """
    backbone = asdict(BACKBONES[cell.backbone])
    for told in ("licence", "published_learning_rate", "published_batch"):
        del backbone[told]
    task = asdict(TASKS[cell.task])
    own = {**asdict(cell), "backbone": backbone, "task": task, "alpha": cell.alpha}
    return {"version": CELL_VERSION, **own}


def cell_id(cell: Cell) -> str:
    """Readable prefix + 12 hex digits of sha256 over the canonical JSON of `science`.

    >>> cell_id(cell)  # doctest: +SKIP
    'taxonomy.nt_v2_50m.lora.r8.trained.s0-3f9a2c11d0be'
    """
    canonical = json.dumps(science(cell), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    rank = () if cell.rank is None else (f"r{cell.rank}",)
    parts = (cell.task, cell.backbone, cell.strategy, *rank, cell.heads, f"s{cell.seed}")
    return f"{'.'.join(parts)}-{digest}"


def cell_to_json(cell: Cell) -> str:
    """The cell as JSON text; `cell_from_json` gives the same cell back."""
    return json.dumps(asdict(cell), sort_keys=True)


def cell_from_json(text: str) -> Cell:
    """Read a cell that `cell_to_json` wrote.

    Raises
    ------
    SpecError
        A field is unknown or missing, or the cell cannot exist.
    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise SpecError(f"cell is no JSON ({error}): {text[:200]}") from error
    recipe = entries.get("recipe") if isinstance(entries, dict) else None
    if not isinstance(recipe, dict):
        raise SpecError(f"cell without a recipe: {text[:200]}")
    _check_fields("recipe", Recipe, recipe)
    _check_fields("cell", Cell, entries)
    return Cell(**{**entries, "recipe": Recipe(**recipe)})


def check_distinct(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Return the cells as a tuple; refuse two that mean the same."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        identity = cell_id(cell)
        if identity in seen:
            raise SpecError(f"two cells mean the same: {identity}; remove one from the grid")
        seen[identity] = cell
    return tuple(seen.values())


def _check_types(prefix: str, value: Recipe | Cell) -> None:
    """Refuse 0 for 0.0 and the like: JSON tells them apart, so one cell would have two ids."""
    for name, kind in get_type_hints(type(value)).items():
        got, allowed = getattr(value, name), get_args(kind) or (kind,)
        if type(got) not in allowed:
            told = " or ".join(one.__name__ for one in allowed).replace("NoneType", "None")
            raise SpecError(f"{prefix}{name} is {got!r} of type {type(got).__name__}, not {told}")


def _check_choice(what: str, got: object, allowed: Iterable[object]) -> None:
    if got not in (choices := tuple(allowed)):
        raise SpecError(f"unknown {what}: {got!r}; known: {', '.join(map(str, choices))}")


def _check_fields(what: str, kind: type[Any], entries: Mapping[str, object]) -> None:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(entries) - known):
        raise SpecError(f"unknown field(s) in {what}: {unknown}; known: {sorted(known)}")
    if missing := sorted(known - set(entries)):
        raise SpecError(f"missing field(s) in {what}: {missing}")

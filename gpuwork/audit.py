"""What trains and what does not, held against what the cell's name promises."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from gpuwork.registry import BACKBONES, STRATEGIES
from gpuwork.spec import Cell
from gpuwork.strategies.backbone_weights import FROZEN_SHARE


class AuditError(RuntimeError):
    """The model is not what the cell's name says; lists the tensors."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A classifier as it was before its strategy: what the promise is worked out from.

    Attributes
    ----------
    sizes
        Number of weights of every tensor, in registration order.
    modules
        Full names of all modules.
    """

    sizes: dict[str, int]
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """What a model was found to be. Counts are weights, not tensors."""

    trainable: tuple[str, ...]
    trainable_parameters: int
    total_parameters: int


def blueprint(model: nn.Module) -> Blueprint:
    """Record names and sizes of a classifier before its strategy is applied."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Blueprint(sizes, tuple(name for name, _ in model.named_modules()))


def promised(cell: Cell, plan: Blueprint) -> set[str]:
    """Names of exactly the tensors that must train in this cell.

    Raises
    ------
    AuditError
        The backbone's adapter targets match another number of modules than its row says.
    """
    heads = {name for name in plan.sizes if name.startswith("heads.")}
    if STRATEGIES[cell.strategy].is_adapter:
        return _adapter_tensors(cell, plan) | (heads if cell.heads == "trained" else set())
    if cell.strategy == "head_only":
        return heads
    if cell.strategy == "frozen75":
        ends = accumulate(plan.sizes.values())
        limit = FROZEN_SHARE * sum(plan.sizes.values())
        starts = (end - size for end, size in zip(ends, plan.sizes.values(), strict=True))
        return {name for name, start in zip(plan.sizes, starts, strict=True) if start >= limit}
    return set(plan.sizes)


def inspect(model: nn.Module, cell: Cell, plan: Blueprint) -> Audit:
    """Compare what requires a gradient with what the cell promises.

    Raises
    ------
    AuditError
        Any tensor trains that should not, or does not train that should.
    """
    parameters = dict(model.named_parameters())
    found = {name for name, parameter in parameters.items() if parameter.requires_grad}
    expected = promised(cell, plan)
    if found != expected:
        raise AuditError(
            f"{cell.strategy} on {cell.backbone} with {cell.heads} heads promises: "
            f"{STRATEGIES[cell.strategy].promise}. Trains but should not: "
            f"{sorted(found - expected)}; should train but does not: {sorted(expected - found)}"
        )
    return Audit(
        trainable=tuple(name for name in parameters if name in found),
        trainable_parameters=sum(parameters[name].numel() for name in found),
        total_parameters=sum(parameter.numel() for parameter in parameters.values()),
    )


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, shapes and bytes of tensors, in order of name."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().data)
    return total.hexdigest()


def frozen_digest(model: nn.Module) -> str:
    """`digest` of every tensor that must not change while the cell trains."""
    return digest((n, p) for n, p in model.named_parameters() if not p.requires_grad)


def _adapter_tensors(cell: Cell, plan: Blueprint) -> set[str]:
    row = BACKBONES[cell.backbone]
    kinds = {
        "lora": (
            row.lora_targets,
            row.lora_modules,
            ("lora_A.default.weight", "lora_B.default.weight"),
        ),
        "ia3": (row.ia3_targets, row.ia3_modules, ("ia3_l.default",)),
    }
    pattern, count, tensors = kinds[cell.strategy]
    targets = [name for name in plan.modules if re.fullmatch(pattern, name)]
    if len(targets) != count:
        raise AuditError(
            f"{cell.strategy} targets of {cell.backbone} match {len(targets)} modules, its row "
            f"says {count}: {pattern}; correct the row in gpuwork/registry.py"
        )
    return {f"{target}.{tensor}" for target in targets for tensor in tensors}

"""The four HDF5 layouts, as tables: corpus, tokens, result, merged.

Columns of one dimension have one length. ``<level>`` in a name stands for every label level listed
in the file's ``levels`` attribute. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSIONS = {"corpus": "1.0", "tokens": "1.0", "result": "1.0", "merged": "1.0"}
SPLITS = ("train", "validation", "test")
"""Values of a corpus' ``split`` column are indices into this."""


@dataclass(frozen=True, slots=True)
class Column:
    """One dataset of a layout.

    Attributes
    ----------
    dtype
        numpy dtype, or ``str`` for UTF-8 text.
    unit
        SI symbol, ``bytes``, ``tokens``, or ``1`` for a pure number or code.
    dimension
        Name of the first axis; ``x+1`` is the offset of a flat column over dimension x.
    axes
        Number of axes.
    """

    dtype: str
    unit: str
    dimension: str
    axes: int = 1


_STEP_COLUMNS = {
    "steps/step": Column("int64", "1", "step"),
    "steps/loss": Column("float64", "nat", "step"),
    "steps/learning_rate": Column("float64", "1", "step"),
}
_EPOCH_COLUMNS = {
    "epochs/epoch": Column("int64", "1", "epoch"),
    "epochs/train_loss": Column("float64", "nat", "epoch"),
    "epochs/validation_loss": Column("float64", "nat", "epoch"),
    "epochs/train_s": Column("float64", "s", "epoch"),
    "epochs/validation_s": Column("float64", "s", "epoch"),
    "epochs/sequences_per_s": Column("float64", "1/s", "epoch"),
    "epochs/tokens_per_s": Column("float64", "1/s", "epoch"),
    "epochs/peak_bytes": Column("int64", "bytes", "epoch"),
    "epochs/peak_reserved_bytes": Column("int64", "bytes", "epoch"),
    "epochs/energy_j": Column("float64", "J", "epoch"),
    "epochs/balanced_accuracy/<level>": Column("float64", "1", "epoch"),
}
_TEST_COLUMNS = {
    "test/row": Column("int64", "1", "test"),
    "test/<level>/true_class": Column("int32", "1", "test"),
    "test/<level>/top_class": Column("int32", "1", "test", 2),
    "test/<level>/top_log_probability": Column("float32", "nat", "test", 2),
    "test/<level>/true_log_probability": Column("float32", "nat", "test"),
    "test/<level>/true_rank": Column("int32", "1", "test"),
}
_CLASSES = {"class/<level>": Column("str", "1", "class_<level>")}

LAYOUTS: dict[str, dict[str, Column]] = {
    "corpus": {
        "bases": Column("uint8", "base", "base"),
        "offset": Column("int64", "base", "fragment+1"),
        "label/<level>": Column("int32", "1", "fragment"),
        "split": Column("uint8", "1", "fragment"),
        "group": Column("int64", "taxid", "fragment"),
        "record/file": Column("int32", "1", "fragment"),
        "record/index": Column("int64", "1", "fragment"),
        "file": Column("str", "1", "file"),
        **_CLASSES,
    },
    "tokens": {
        "token": Column("uint16", "1", "token"),
        "offset": Column("int64", "tokens", "fragment+1"),
    },
    "result": {
        "config": Column("str", "1", "one"),
        "attempts/number": Column("int64", "1", "attempt"),
        "attempts/node": Column("str", "1", "attempt"),
        "attempts/started_utc": Column("str", "1", "attempt"),
        "attempts/first_step": Column("int64", "1", "attempt"),
        "attempts/micro_batch": Column("int64", "1", "attempt"),
        "attempts/accumulation": Column("int64", "1", "attempt"),
        "attempts/ranks": Column("int64", "1", "attempt"),
        "attempts/code_sha256": Column("str", "1", "attempt"),
        **_EPOCH_COLUMNS,
        **_STEP_COLUMNS,
        "gpu/time_s": Column("float64", "s", "sample"),
        "gpu/memory_bytes": Column("int64", "bytes", "sample"),
        "gpu/power_w": Column("float64", "W", "sample"),
        "gpu/utilization": Column("float64", "1", "sample"),
        "gpu/clock_hz": Column("float64", "Hz", "sample"),
        "gpu/other_tenants": Column("int64", "1", "sample"),
        **_TEST_COLUMNS,
        **_CLASSES,
    },
    "merged": {
        "cells/cell_id": Column("str", "1", "cell"),
        "cells/config": Column("str", "1", "cell"),
        "cells/provenance": Column("str", "1", "cell"),
        "cells/file_sha256": Column("str", "1", "cell"),
        "cells/task": Column("str", "1", "cell"),
        "cells/backbone": Column("str", "1", "cell"),
        "cells/strategy": Column("str", "1", "cell"),
        "cells/rank": Column("int64", "1", "cell"),
        "cells/heads": Column("str", "1", "cell"),
        "cells/seed": Column("int64", "1", "cell"),
        "cells/learning_rate": Column("float64", "1", "cell"),
        "cells/best_epoch": Column("int64", "1", "cell"),
        "cells/trainable_parameters": Column("int64", "1", "cell"),
        "cells/total_parameters": Column("int64", "1", "cell"),
        "cells/peak_bytes": Column("int64", "bytes", "cell"),
        "cells/run_s": Column("float64", "s", "cell"),
        "epochs/cell": Column("int64", "1", "epoch"),
        **_EPOCH_COLUMNS,
        "test/offset": Column("int64", "1", "cell+1"),
        **_TEST_COLUMNS,
        **_CLASSES,
        "missing/cell_id": Column("str", "1", "missing"),
        "missing/config": Column("str", "1", "missing"),
        "rejected/file": Column("str", "1", "rejected"),
        "rejected/reason": Column("str", "1", "rejected"),
    },
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "corpus": (
        "name", "levels", "content_sha256", "inputs_sha256", "options", "split_rule", "seed",
    ),
    "tokens": (
        "tokenizer", "tokenizer_sha256", "corpus_sha256", "unknown_share",
        "shortest_tokens", "median_tokens", "longest_tokens",
    ),
    "result": (
        "cell_id", "levels", "finished_utc", "best_epoch", "total_parameters",
        "trainable_parameters", "peak_bytes", "memory_kind", "run_s",
    ),
    "merged": ("study", "levels", "expected_cells"),
}  # fmt: skip
"""Root attributes every file of a layout has, beside schema, schema_version and created_utc."""

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

import h5py
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from data_prep import ledger, taxonomy
from data_prep.errors import InputError
from data_prep.fragment import (
    Fragments,
    Source,
    directory_sources,
    manifest_sources,
    read,
    select,
)
from data_prep.labels import Labels, label, origins
from data_prep.ledger import DETAILS, Row
from data_prep.split import stratified
from gpuwork import schema
from gpuwork.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything beside the input that decides what a corpus contains.

    Attributes
    ----------
    fragment_bp
        Length of a window of a genome; None for ready fragments.
    test_share, validation_share
        Of all fragments, and of the rest.
    drop_classes_below
        Genera with fewer fragments are left out; 0 keeps all.
    """

    fragment_bp: int | None
    test_share: float
    validation_share: float
    seed: int
    drop_classes_below: int
    drop_unknown_taxids: bool


def build(
    workspace: Workspace,
    *,
    name: str,
    sources: Sequence[Source],
    taxdump: Path,
    options: Options,
) -> list[Row]:
    """Make a corpus and the report beside it.

    Returns
    -------
    Rows of the report; none where the same corpus is there already.

    Raises
    ------
    InputError
        Bad input, bad options, or a corpus of that name made from something else.
    gpuwork.schema.SchemaError
        The corpus that is there is damaged.
    """
    target, console = workspace.corpus(name), Console(stderr=True)
    taxdump_sha256 = taxonomy.digest(taxdump)
    inputs = {source.name: _sha256(source.path) for source in sources}
    inputs["taxdump"] = taxdump_sha256
    if _is_made(target, inputs=inputs, options=options):
        return []
    progress = track(
        sources, "reading", console=console, transient=True, disable=not console.is_terminal
    )
    fragments = read(progress, fragment_bp=options.fragment_bp or 0)
    with console.status("looking taxids up (the first time with a full taxdump: minutes)"):
        database = taxonomy.database(taxdump, sha256=taxdump_sha256, workspace=workspace)
        lineages = taxonomy.lineages(
            np.unique(fragments.taxid).tolist(), database=database, taxdump=taxdump
        )
    labels, rows = label(
        origins(fragments, sources=sources, lineages=lineages),
        lineages=lineages,
        drop_classes_below=options.drop_classes_below,
        drop_unknown_taxids=options.drop_unknown_taxids,
    )
    split = stratified(
        labels.label["genus"],
        names=labels.names["genus"],
        test_share=options.test_share,
        validation_share=options.validation_share,
        seed=options.seed,
    )
    rows = _report(fragments, labels=labels, split=split, rows=rows)
    with console.status("writing"), schema.write(target, "corpus") as file:
        attributes = {"name": name, "inputs_sha256": inputs, "options": asdict(options)}
        kept = select(fragments, labels.kept)
        _fill(file, kept, labels=labels, split=split, sources=sources, attributes=attributes)
        ledger.write(report_path(target), rows)
    return rows


def report_path(corpus: Path) -> Path:
    """The report beside a corpus file."""
    return corpus.with_suffix(".report.tsv")

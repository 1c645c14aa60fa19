"""Which fragments get labels, and the classes of each level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.errors import InputError
from data_prep.fragment import Fragments, Source
from data_prep.ledger import DROPPED, Row
from data_prep.taxonomy import LEVELS, UNKNOWN, Lineage, refusal

_LISTED = 10
"""Unknown taxids that an error names."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Every pair of source and taxid that occurs, and what becomes of its fragments.

    Attributes
    ----------
    of_fragment
        int64 of shape (n_fragments,): index of each fragment's origin.
    taxid, number
        int64 of shape (n_origins,): taxid as given, and number of fragments.
    refusal
        Why an origin's fragments are dropped; None where they are kept.
    taxa
        int64 of shape (n_origins, n_levels): taxon at each level, 0 where dropped.
    current
        int64 of shape (n_origins,): taxid in use, 0 where dropped.
    """

    of_fragment: npt.NDArray[np.int64]
    taxid: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    refusal: tuple[str | None, ...]
    taxa: npt.NDArray[np.int64]
    current: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of the fragments that are kept.

    Attributes
    ----------
    kept
        int64 of shape (n_kept,): their indices among all fragments.
    group
        int64 of shape (n_kept,): taxid in use.
    names
        Level to sorted names of the classes that occur.
    label
        Level to int32 of shape (n_kept,): indices into `names`.
    """

    kept: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    names: dict[str, tuple[str, ...]]
    label: dict[str, npt.NDArray[np.int32]]


def origins(
    fragments: Fragments, *, sources: Sequence[Source], lineages: Mapping[int, Lineage]
) -> Origins:
    """Decide for every pair of source and taxid whether its fragments are kept."""
    span = 10**9  # above every taxid
    key, of_fragment, number = np.unique(
        fragments.source * span + fragments.taxid, return_inverse=True, return_counts=True
    )
    taxid = key % span
    found = [lineages[t] for t in taxid.tolist()]
    refusals = tuple(
        refusal(lineage, superkingdom=sources[source].superkingdom)
        for lineage, source in zip(found, (key // span).tolist(), strict=True)
    )
    taxa = [
        [0 if refused else lineage.taxa[level][0] for level in LEVELS]
        for lineage, refused in zip(found, refusals, strict=True)
    ]
    current = [
        0 if refused else lineage.current for lineage, refused in zip(found, refusals, strict=True)
    ]
    return Origins(
        of_fragment,
        taxid,
        number.astype(np.int64),
        refusals,
        np.array(taxa, dtype=np.int64).reshape(-1, len(LEVELS)),
        np.array(current, dtype=np.int64),
    )


def label(
    found: Origins,
    *,
    lineages: Mapping[int, Lineage],
    drop_classes_below: int,
    drop_unknown_taxids: bool,
) -> tuple[Labels, list[Row]]:
    """Drop what has no label or too small a class, and number the classes.

    Parameters
    ----------
    drop_classes_below
        Genera with fewer fragments are dropped; 0 keeps all.

    Raises
    ------
    InputError
        A taxid is unknown and not to be dropped, or nothing is left.
    """
    rows = _refused(found, drop_unknown_taxids=drop_unknown_taxids)
    rows += _merged(found)
    is_kept = np.array([refused is None for refused in found.refusal])[found.of_fragment]
    genus = found.taxa[found.of_fragment, LEVELS.index("genus")]
    names = dict(taxon for lineage in lineages.values() for taxon in lineage.taxa.values())
    for taxon, number in zip(*np.unique(genus[is_kept], return_counts=True), strict=True):
        if number < drop_classes_below:
            is_kept &= genus != taxon
            note = f"genus with fewer than {drop_classes_below} fragments"
            rows.append(Row("dropped class", names[int(taxon)], int(number), note))
    kept = np.flatnonzero(is_kept)
    if not kept.size:
        reasons = "; ".join(sorted({row.note for row in rows if row.section in DROPPED}))
        raise InputError(f"no fragment is left ({reasons}); check the input and the options")
    origin = found.of_fragment[kept]
    classes = {
        level: _numbered(found.taxa[origin, column], names=names)
        for column, level in enumerate(LEVELS)
    }
    return Labels(
        kept,
        found.current[origin],
        {level: shown for level, (shown, _) in classes.items()},
        {level: index for level, (_, index) in classes.items()},
    ), rows


def _refused(found: Origins, *, drop_unknown_taxids: bool) -> list[Row]:
    rows = [
        Row("dropped taxid", str(taxid), number, reason)
        for taxid, number, reason in zip(
            found.taxid.tolist(), found.number.tolist(), found.refusal, strict=True
        )
        if reason is not None
    ]
    unknown = sorted({int(row.item) for row in rows if row.note == UNKNOWN})
    if unknown and not drop_unknown_taxids:
        listed = ", ".join(str(taxid) for taxid in unknown[:_LISTED])
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise InputError(
            f"taxid(s) {listed}{more} {UNKNOWN}; correct them, give a newer taxdump, or leave "
            "their fragments out with --drop-unknown-taxids"
        )
    return rows


def _merged(found: Origins) -> list[Row]:
    return [
        Row("merged taxid", str(taxid), number, f"now {current}")
        for taxid, current, number in zip(
            found.taxid.tolist(), found.current.tolist(), found.number.tolist(), strict=True
        )
        if current not in (0, taxid)
    ]


def _numbered(
    taxon: npt.NDArray[np.int64], *, names: Mapping[int, str]
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """Sorted class names and each fragment's index into them.

    Taxa are told apart by taxid: NCBI has genera of one name in several kingdoms, which get their
    taxids appended.
    """
    present, position = np.unique(taxon, return_inverse=True)
    plain = [names[t] for t in present.tolist()]
    shown = [
        name if plain.count(name) == 1 else f"{name} [taxid {t}]"
        for name, t in zip(plain, present.tolist(), strict=True)
    ]
    order = np.argsort(np.array(shown, dtype=object), kind="stable")
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order))
    return tuple(shown[i] for i in order), rank[position]

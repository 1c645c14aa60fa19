from __future__ import annotations

import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.fragment import Fragments, Source
from data_prep.labels import label, origins
from data_prep.taxonomy import Lineage

BACTERIA, PHYLUM = (2, "Bacteria"), (1224, "Pseudomonadota")


def lineage(taxid: int, genus: tuple[int, str] | None, *, current: int | None = None) -> Lineage:
    taxa = {"superkingdom": BACTERIA, "phylum": PHYLUM} | ({"genus": genus} if genus else {})
    return Lineage(taxid, current or taxid, taxa)


LINEAGES = {
    562: lineage(562, (561, "Escherichia")),
    83333: lineage(83333, (561, "Escherichia"), current=562),
    10: lineage(10, (100, "Bacillus")),
    20: lineage(20, (200, "Bacillus")),
    77: lineage(77, None),
    98: Lineage(98, None, {}),
    99: Lineage(99, None, {}, is_deleted=True),
}


def labeled(taxids: list[int], *, source=None, below: int = 0, drop_unknown: bool = False):
    n = len(taxids)
    fragments = Fragments(
        bases=np.full(n, ord("A"), dtype=np.uint8),
        offset=np.arange(n + 1),
        taxid=np.array(taxids),
        source=np.array(source or [0] * n),
        record=np.arange(n),
        dropped={},
    )
    sources = [Source(None, name, name, None) for name in ("Bacteria", "Archaea")]
    return label(
        origins(fragments, sources=sources, lineages=LINEAGES),
        lineages=LINEAGES,
        drop_classes_below=below,
        drop_unknown_taxids=drop_unknown,
    )


def test_merged_taxids_share_class_and_group():
    labels, rows = labeled([562, 83333, 562])
    assert labels.group.tolist() == [562, 562, 562]
    assert labels.label["genus"].tolist() == [0, 0, 0]
    assert rows == [("merged taxid", "83333", 1, "now 562")]


def test_what_has_no_label_is_dropped_and_listed():
    labels, rows = labeled([562, 77, 99, 562, 77])
    assert labels.kept.tolist() == [0, 3]
    assert rows == [
        ("dropped taxid", "77", 2, "no genus in its lineage"),
        ("dropped taxid", "99", 1, "deleted by NCBI"),
    ]


def test_a_taxid_is_dropped_only_where_it_is_listed_wrongly():
    labels, rows = labeled([562, 562, 562], source=[0, 1, 0])
    assert labels.kept.tolist() == [0, 2]
    assert rows == [("dropped taxid", "562", 1, "listed under Archaea, belongs to Bacteria")]


def test_unknown_taxids_are_refused_unless_told():
    with pytest.raises(InputError, match=r"taxid\(s\) 98 unknown.*newer taxdump.*--drop-unknown"):
        labeled([562, 98])
    labels, rows = labeled([562, 98], drop_unknown=True)
    assert labels.kept.tolist() == [0]
    assert rows == [("dropped taxid", "98", 1, "unknown to the taxdump")]


def test_genera_of_one_name_stay_apart():
    labels, _ = labeled([20, 562, 10])
    assert labels.names["genus"] == ("Bacillus [taxid 100]", "Bacillus [taxid 200]", "Escherichia")
    assert labels.label["genus"].tolist() == [1, 2, 0]
    assert labels.label["genus"].dtype == np.int32
    assert labels.names["phylum"] == ("Pseudomonadota",)


def test_small_classes_are_dropped_on_demand():
    labels, rows = labeled([562, 10, 562, 20, 20], below=2)
    assert labels.kept.tolist() == [0, 2, 3, 4]
    assert labels.names["genus"] == ("Bacillus", "Escherichia")
    assert rows == [("dropped class", "Bacillus", 1, "genus with fewer than 2 fragments")]


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(InputError, match=r"no fragment is left \(deleted by NCBI; no genus in"):
        labeled([77, 99])

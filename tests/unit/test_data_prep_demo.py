from __future__ import annotations

import csv
import hashlib
from collections import Counter

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep import demo, taxonomy
from data_prep.fragment import manifest_sources, read
from data_prep.labels import label, origins
from gpuwork.workspace import Workspace


def digests(directory) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_equal_arguments_give_equal_bytes_and_the_seed_counts(tmp_path):
    small = {"phyla": {"Archaea": 1, "Viruses": 1}, "genome_bp": 1000}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        demo.write(tmp_path / name, seed=seed, **small)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert {name for name in a if a[name] == c[name]} == {
        "manifest.tsv",
        "taxdump/merged.dmp",
        "taxdump/names.dmp",
        "taxdump/nodes.dmp",
    }


def test_the_command_writes_once(tmp_path, capsys):
    (tmp_path / "site.toml").touch()
    site = ["--site", str(tmp_path / "site.toml")]
    assert demo.main(site) == 0
    assert demo.main(site) == 0
    assert "nothing to do" in capsys.readouterr().out
    raw = Workspace.locate(tmp_path / "site.toml").raw("demo")
    assert sorted(path.name for path in raw.parent.iterdir()) == ["demo"]
    with (raw / "manifest.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    genera = Counter(row["organism"].partition(" sp.")[0] for row in rows)
    assert genera.pop("unclassified") == 1
    assert len(genera) == 30
    assert set(genera.values()) == {2}
    assert Counter(row["superkingdom"] for row in rows) == {
        "Archaea": 12,
        "Bacteria": 18,
        "Eukaryota": 18,
        "Viruses": 13,
    }


def test_k_mers_tell_the_classes(tmp_path):
    raw, dump = tmp_path / "demo", tmp_path / "demo" / "taxdump"
    demo.write(raw)
    sources = manifest_sources(raw / "manifest.tsv")
    fragments = read(sources, fragment_bp=300)
    database = taxonomy.database(
        dump, sha256=taxonomy.digest(dump), workspace=Workspace(tmp_path / "work")
    )
    lineages = taxonomy.lineages(
        np.unique(fragments.taxid).tolist(), database=database, taxdump=dump
    )
    labels, dropped = label(
        origins(fragments, sources=sources, lineages=lineages),
        lineages=lineages,
        drop_classes_below=0,
        drop_unknown_taxids=False,
    )
    assert [(row.section, row.item, row.note) for row in dropped] == [
        ("dropped taxid", "900000105", "no genus in its lineage"),
        ("merged taxid", "900000000", "now 900000004"),
    ]
    assert [len(names) for names in labels.names.values()] == [4, 10, 30]
    assert len(labels.kept) == 8340

    digit = np.zeros(256, dtype=np.int64)
    digit[list(b"ACGT")] = range(4)
    sites = digit[fragments.bases.reshape(-1, 300)[labels.kept]]
    words = sum(sites[:, k : 297 + k] * 4 ** (3 - k) for k in range(4))
    counts = np.array([np.bincount(row, minlength=256) for row in words])
    is_test = np.arange(len(counts)) % 5 == 0
    found = {}
    for level, classes in labels.label.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        model.fit(counts[~is_test], classes[~is_test])
        predicted = model.predict(counts[is_test])
        found[level] = balanced_accuracy_score(classes[is_test], predicted)
    assert found["superkingdom"] > 0.95
    assert found["phylum"] > 0.9
    assert 0.9 < found["genus"] < 0.99

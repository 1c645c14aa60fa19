"""A small, learnable, deterministic data set: made-up genomes that evolved along a made-up tree.

``python -m data_prep.demo`` writes a manifest, genomes and a taxdump in the form of the real ones,
then the corpus ``demo`` and its tokens.
From the 4-mer counts of their 300 bp fragments logistic regression tells superkingdom, phylum and
genus with balanced accuracies of about 0.98, 0.96 and 0.95.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from data_prep import corpus, tokenize
from gpuwork.workspace import Workspace

SEED = 42
PHYLA = {"Archaea": 2, "Bacteria": 3, "Eukaryota": 3, "Viruses": 2}
GENERA, SPECIES = 3, 2
"""Genera per phylum, species per genus."""

ROOT, FIRST_TAXID = 1, 900_000_001
"""Taxids begin far above NCBI's, so that nobody takes them for real ones."""

BRANCHES = {
    "superkingdom": (1.2, 0.9),
    "phylum": (0.9, 0.8),
    "genus": (0.9, 0.8),
    "species": (0.05, 0.1),
}
"""The branch that leads to a rank: standard deviation of the change of each log-odds of the
substitution table, and share of the sites drawn anew in each of three passes."""

CORPUS = ("--fragment-bp", "300", "--test-share", "0.2")
"""Short fragments keep the demo quick; a large test split keeps its intervals narrow."""

_DRAWS = 1 << 16
"""Draws are integers below this and thresholds are rounded to them, the same on every machine."""

_GAP_BP, _MASKED_BP, _LINE = 40, 500, 80


@dataclass(frozen=True, slots=True)
class Taxon:
    """A node of the tree; a tip has the rank "species"."""

    taxid: int
    parent: int
    rank: str
    name: str
    superkingdom: str


@dataclass(frozen=True, slots=True)
class Genome:
    """A sequence and what drives its change.

    Attributes
    ----------
    sites
        int64 of shape (n_bases,): 0 A, 1 C, 2 G, 3 T.
    log_odds
        float64 of shape (16, 4): of each base after each pair of bases.
    """

    sites: npt.NDArray[np.int64]
    log_odds: npt.NDArray[np.float64]


def write(
    directory: Path,
    *,
    phyla: Mapping[str, int] = PHYLA,
    genome_bp: int = 42_000,
    seed: int = SEED,
) -> None:
    """Write ``manifest.tsv``, ``genomes/*.fa`` and ``taxdump/*.dmp`` into a new directory.

    Equal arguments give equal bytes. Each genome has lower-case letters and a gap of N. The first
    species is listed under the taxid it had before a merger; the last one belongs to no genus.

    Parameters
    ----------
    phyla
        Number of phyla per superkingdom.
    """
    taxa = _tree(phyla)
    tips = [taxon for taxon in taxa if taxon.rank == "species"]
    former = {tips[0].taxid: FIRST_TAXID - 1}
    generator = np.random.Generator(np.random.PCG64(seed))
    genomes = _evolve(taxa, genome_bp=genome_bp, generator=generator)
    (directory / "genomes").mkdir(parents=True)
    manifest = ["superkingdom\ttaxid\tfile\torganism\n"]
    for tip in tips:
        name = f"genomes/{tip.superkingdom}__{tip.taxid}.fa"
        sequence = _letters(genomes[tip.taxid], generator=generator)
        lines = [sequence[start : start + _LINE] for start in range(0, genome_bp, _LINE)]
        text = "\n".join((f">{tip.taxid}.1 {tip.name}", *lines, ""))
        (directory / name).write_text(text, encoding="ascii")
        listed = former.get(tip.taxid, tip.taxid)
        manifest.append(f"{tip.superkingdom}\t{listed}\t{name}\t{tip.name}\n")
    (directory / "manifest.tsv").write_text("".join(manifest), encoding="ascii")
    _write_taxdump(directory / "taxdump", taxa=taxa, former=former)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the demo's raw input, its corpus and its tokens, each unless it is there."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.demo", description=__doc__)
    parser.add_argument("--site", type=Path, default=Path("site.toml"), metavar="TOML")
    site = parser.parse_args(argv).site
    raw = Workspace.locate(site).raw("demo")
    try:
        if not raw.exists():
            raw.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".demo-", dir=raw.parent) as scratch:
                write(Path(scratch) / "demo")
                (Path(scratch) / "demo").rename(raw)
    except OSError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    source = ["--manifest", f"{raw / 'manifest.tsv'}", "--taxdump", f"{raw / 'taxdump'}"]
    place = ["--site", f"{site}"]
    return corpus.main(["demo", *source, *CORPUS, *place]) or tokenize.main(
        ["demo", "nt_v2", *place]
    )


def _tree(phyla: Mapping[str, int]) -> list[Taxon]:
    """All taxa below the root, parents before children."""
    taxa: list[Taxon] = []

    def grow(parent: int, rank: str, name: str) -> int:
        superkingdom = name if rank == "superkingdom" else taxa[parent - FIRST_TAXID].superkingdom
        taxid = FIRST_TAXID + len(taxa)
        taxa.append(Taxon(taxid, parent, rank, name, superkingdom))
        return taxid

    phylum = ROOT
    for superkingdom, n_phyla in phyla.items():
        top = grow(ROOT, "superkingdom", superkingdom)
        for p in range(1, n_phyla + 1):
            stem = f"{superkingdom[:4]}-P{p}"
            phylum = grow(top, "phylum", stem)
            for g in range(1, GENERA + 1):
                genus = grow(phylum, "genus", f"{stem}-G{g}")
                for s in range(1, SPECIES + 1):
                    grow(genus, "species", f"{stem}-G{g} sp. {s}")
    grow(phylum, "species", "unclassified sp.")
    return taxa


def _evolve(
    taxa: Sequence[Taxon], *, genome_bp: int, generator: np.random.Generator
) -> dict[int, Genome]:
    """The genome of every taxon, each changed from its parent's."""
    root = Genome(generator.integers(4, size=genome_bp), np.zeros((16, 4)))
    genomes = {ROOT: root}
    for taxon in taxa:
        genomes[taxon.taxid] = _changed(genomes[taxon.parent], taxon.rank, generator=generator)
    return genomes


def _changed(parent: Genome, rank: str, *, generator: np.random.Generator) -> Genome:
    """A child at the end of a branch: its table drifts, then sites are drawn from the table."""
    drift, replaced = BRANCHES[rank]
    log_odds = parent.log_odds + drift * generator.standard_normal((16, 4))
    odds = np.exp(log_odds)
    share = odds / odds.sum(axis=1, keepdims=True)
    thresholds = np.round(share.cumsum(axis=1)[:, :3] * _DRAWS).astype(np.int64)
    sites = parent.sites
    for _ in range(3):  # a draw sees its neighbors as they were; passes let the context settle
        context = 4 * np.roll(sites, 2) + np.roll(sites, 1)
        draw = generator.integers(_DRAWS, size=sites.size)
        drawn = (draw[:, None] >= thresholds[context]).sum(axis=1)
        is_hit = generator.integers(_DRAWS, size=sites.size) < replaced * _DRAWS
        sites = np.where(is_hit, drawn, sites)
    return Genome(sites, log_odds)


def _letters(genome: Genome, *, generator: np.random.Generator) -> str:
    """The sequence as a sequencing center would give it: soft-masked somewhere, with a gap."""
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)[genome.sites]
    masked, gap = generator.integers(letters.size, size=2)
    letters[masked : masked + _MASKED_BP] += ord("a") - ord("A")
    letters[gap : gap + _GAP_BP] = ord("N")
    return letters.tobytes().decode("ascii")


def _write_taxdump(directory: Path, *, taxa: Sequence[Taxon], former: Mapping[int, int]) -> None:
    """The tree in NCBI's format, with the ranks in use since 2025."""
    directory.mkdir()
    top = {"superkingdom": "domain"}
    nodes, names = (
        [_row(ROOT, ROOT, "no rank", *_REST)],
        [_row(ROOT, "root", "", "scientific name")],
    )
    for taxon in taxa:
        rank = "acellular root" if taxon.name == "Viruses" else top.get(taxon.rank, taxon.rank)
        nodes.append(_row(taxon.taxid, taxon.parent, rank, *_REST))
        names.append(_row(taxon.taxid, taxon.name, "", "scientific name"))
    merged = [_row(old, new) for new, old in former.items()]
    for name, rows in (("nodes", nodes), ("names", names), ("merged", merged)):
        (directory / f"{name}.dmp").write_text("".join(rows), encoding="ascii")


_REST = ("", 0, 0, 11, 0, 0, 0, 0, 0, "")
"""Columns of nodes.dmp after the rank: EMBL code, division, genetic codes, flags, comment."""


def _row(*fields: object) -> str:
    return "\t|\t".join(str(field) for field in fields) + "\t|\n"


if __name__ == "__main__":
    sys.exit(main())

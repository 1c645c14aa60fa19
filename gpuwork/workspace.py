"""Where every file of the project lies, below one root directory. Standard library only."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """The one directory that holds corpora, models, runs, results and reports.

    On a cluster it lies on the file system that login and compute nodes share.
    """

    root: Path

    @staticmethod
    def locate(site_file: Path = Path("site.toml")) -> Workspace:
        """The workspace that ``[paths] root`` of site.toml names; ``work`` without a site.toml.

        A relative root is taken from the directory of `site_file`.

        Raises
        ------
        SystemExit
            The file is no TOML or `root` no text; the message says where.
        """
        named = "work"
        if site_file.exists():
            try:
                named = tomllib.loads(site_file.read_text()).get("paths", {}).get("root", named)
            except (tomllib.TOMLDecodeError, AttributeError, UnicodeDecodeError) as error:
                raise SystemExit(f"error: {site_file}: {error}; see site.example.toml") from error
        if not isinstance(named, str):
            raise SystemExit(f"error: {site_file}: [paths] root is {named!r}; write it in quotes")
        return Workspace((site_file.resolve().parent / named).resolve())

    def raw(self, corpus: str) -> Path:
        """Directory of generated raw input (the demo's genomes and taxdump)."""
        return self.root / "raw" / corpus

    def taxonomy(self, digest: str) -> Path:
        """Directory of the ete3 database built from the taxdump with this digest."""
        return self.root / "taxonomy" / digest[:16]

    def corpus(self, corpus: str) -> Path:
        """The corpus file."""
        return self.root / "corpus" / f"{corpus}.h5"

    def tokens(self, corpus: str, tokenizer: str) -> Path:
        """The corpus' token file for one tokenizer."""
        return self.root / "corpus" / f"{corpus}.{tokenizer}.h5"

    def model(self, backbone: str) -> Path:
        """Directory with a backbone's config.json and model.safetensors."""
        return self.root / "models" / backbone

    def run(self, study: str) -> Path:
        """Directory of a study's plan, journal, attempts, checkpoints and logs."""
        return self.root / "runs" / study

    def checkpoint(self, study: str, cell_id: str) -> Path:
        """Directory of a cell's checkpoints."""
        return self.run(study) / "checkpoints" / cell_id

    def results(self, study: str) -> Path:
        """Directory with one result file per finished cell."""
        return self.root / "results" / study

    def result(self, study: str, cell_id: str) -> Path:
        """The result file of one cell: exists only complete."""
        return self.results(study) / f"{cell_id}.h5"

    def merged(self, study: str) -> Path:
        """All results of a study in one file."""
        return self.root / "results" / f"{study}.h5"

    def report(self, study: str) -> Path:
        """Directory of report.html, figures and tables."""
        return self.root / "reports" / study

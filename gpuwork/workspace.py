"""Where every file of the project lies, below one root directory. Standard library only."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

SITE = Path("site.toml")
"""Where every command looks for the site file unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The one directory that holds corpora, models, runs, results and reports.

    On a cluster it lies on the file system that login and compute nodes share.
    """

    root: Path

    @staticmethod
    def locate(site_file: Path = SITE) -> Workspace:
        """The workspace that ``[paths] root`` of site.toml names; ``work`` without a site.toml.

        A relative root is taken from the directory of `site_file`. `SITE` itself may be absent.

        Raises
        ------
        SystemExit
            A file that was named is not there, is no TOML, or its ``[paths]`` holds anything but
            a `root` in quotes; the message says where.
        """
        try:
            named = tomllib.loads(site_file.read_text()) if _is_needed(site_file) else {}
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SystemExit(f"error: {site_file}: {error}; see site.example.toml") from error
        paths = named.get("paths", {})
        root = paths.get("root", "work") if isinstance(paths, dict) else None
        if not isinstance(root, str) or set(paths) - {"root"}:
            raise SystemExit(
                f"error: {site_file}: [paths] is {paths}; it holds one key, root, a text in quotes"
            )
        return Workspace((site_file.resolve().parent / root).resolve())

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


def _is_needed(site_file: Path) -> bool:
    """A site file that was named must be there; the usual one may be absent."""
    return site_file != SITE or site_file.exists()

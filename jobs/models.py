"""See that every backbone of a study has its weights; train the demo's own.

``python -m jobs.models GRID``. Published weights are put in place by hand: the message says which
files go where.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from rich.console import Console

from gpuwork.registry import Backbone
from jobs import command
from jobs.studies import Study, StudyError, backbones

_FILES = ("config.json", "model.safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return command.run(_models, name="models", describe=__doc__, argv=argv)


def _models(study: Study, _options: argparse.Namespace) -> int:
    console = Console(soft_wrap=True, highlight=False)
    corpora = {cell.backbone: cell.corpus for cell in study.cells.values()}
    lacking = []
    for backbone in backbones(study).values():
        folder = study.workspace.model(backbone.name)
        if all((folder / name).is_file() for name in _FILES):
            console.print(f"{backbone.name}: there ({folder})")
        elif backbone.hub_id is None:
            console.print(f"{backbone.name}: training it on corpus {corpora[backbone.name]!r}")
            pretrain(study, backbone, corpus=corpora[backbone.name])
        else:
            revision = f" at revision {backbone.revision}" if backbone.revision else ""
            lacking.append(
                f"{backbone.name}: put {' and '.join(_FILES)} of "
                f"https://huggingface.co/{backbone.hub_id}{revision} into {folder}"
            )
    if lacking:
        raise StudyError("weights are missing:\n  " + "\n  ".join(lacking))
    return 0


def pretrain(study: Study, backbone: Backbone, *, corpus: str) -> None:
    """Train a backbone that has no published weights, in a process of its own that loads torch.

    Raises
    ------
    StudyError
        It failed; its own message stands above.
    """
    arguments = [backbone.name, "--corpus", corpus, *study.site.arguments]
    done = subprocess.run([sys.executable, "-m", "gpuwork.pretrain", *arguments], check=False)
    if done.returncode:
        raise StudyError(f"{backbone.name}: gpuwork.pretrain ended with {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())

"""Ground for the tests of the launcher: tiny inputs and results, and fakes of SLURM's commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gpuwork import layouts, schema
from gpuwork.workspace import Workspace

LEVELS = ("superkingdom", "phylum", "genus")
GRID = """
from dataclasses import replace
from jobs.grids.demo import cells as demo


def cells():
    return list(demo())[:{count}]
"""
_COMMANDS = {
    "sbatch": """
if [ -e {state}/refuse ]; then echo "sbatch: error: Batch job submission failed" >&2; exit 1; fi
id=$(cat {state}/next); echo $((id + 1)) > {state}/next
cp "$1" {state}/$id.sh; env > {state}/$id.env
if [ -e {state}/deaf ]; then echo "sbatch: error: Socket timed out" >&2; exit 1; fi
echo "Submitted batch job $id"
""",
    "squeue": """
if [ -e {state}/down ]; then echo "slurm_load_jobs error: Unable to contact" >&2; exit 1; fi
for word in "$@"; do case "$word" in
  --name=*) grep -l -- "--job-name=${{word#--name=}}" {state}/*.sh 2>/dev/null \\
    | sed 's|.*/||; s|.sh||'; exit 0;;
esac; done
cat {state}/squeue
""",
    "sacct": """
if [ ! -e {state}/sacct ]; then echo "Slurm accounting storage is disabled" >&2; exit 1; fi
cat {state}/sacct
""",
    "scancel": ": ",
    "scontrol": 'echo "MaxArraySize            = 5"',
    "sinfo": "[ ! -e {state}/down ]",
    "srun": "exit 1",
}


class FakeSlurm:
    """Executables that stand in for SLURM's; they act on files in `state`.

    ``calls`` has one line per call; ``<id>.sh`` and ``<id>.env`` are what sbatch was given;
    ``squeue`` and ``sacct`` are what those print; the files ``down``, ``refuse`` and ``deaf`` break
    the controller, make sbatch refuse, and make it take a job without saying so.
    """

    def __init__(self, folder: Path) -> None:
        self.bin, self.state = folder / "bin", folder / "state"
        self.bin.mkdir(parents=True)
        self.state.mkdir()
        (self.state / "next").write_text("100\n")
        (self.state / "squeue").write_text("")
        for name, body in _COMMANDS.items():
            script = self.bin / name
            log = f'echo "{name} $*" >> "{self.state}/calls"'
            script.write_text(f"#!/bin/bash\n{log}\n{body.format(state=self.state)}\n")
            script.chmod(0o755)

    def calls(self, command: str) -> list[str]:
        """Arguments of every call of one command, in order."""
        path = self.state / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == command]

    def script(self, job_id: int) -> str:
        """The batch script of one job."""
        return (self.state / f"{job_id}.sh").read_text()


def write_site(folder: Path, text: str = "") -> Path:
    """A site.toml in a folder; its workspace is ``work`` beside it."""
    path = folder / "site.toml"
    path.write_text(text)
    return path


def write_grid(folder: Path, *, count: int, name: str = "trial") -> Path:
    """A user's grid file: the first cells of the demo."""
    path = folder / f"{name}.py"
    path.write_text(GRID.format(count=count))
    return path


def write_inputs(workspace: Workspace, *, fragments: int = 10, length_bp: int = 60) -> None:
    """A demo corpus, its tokens, and a folder that looks like the nano backbone's weights."""
    split = np.repeat([0, 1, 2], [fragments - 4, 2, 2])
    with schema.write(workspace.corpus("demo"), "corpus") as file:
        file.attrs.update(name="demo", levels=LEVELS, content_sha256="c" * 64, seed=0)
        file.attrs.update(inputs_sha256="", options="", split_rule="")
        sizes = {"base": fragments * length_bp, "fragment": fragments, "file": 1}
        _fill(file, "corpus", sizes, split=split, offset=np.arange(fragments + 1) * length_bp)
    write_tokens(workspace, corpus_sha256="c" * 64)
    model = workspace.model("nt_v2_nano")
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")


def write_tokens(workspace: Workspace, *, corpus_sha256: str) -> None:
    """A token file that says which corpus it was made from."""
    with schema.write(workspace.tokens("demo", "nt_v2"), "tokens") as file:
        file.attrs.update(dict.fromkeys(layouts.ATTRIBUTES["tokens"], 0))
        file.attrs["corpus_sha256"] = corpus_sha256
        _fill(file, "tokens", {"token": 0, "fragment": 0})


def write_result(path: Path, *, cell_id: str) -> None:
    """A result file of the right layout, without a single number worth reading."""
    with schema.write(path, "result", in_memory=True) as file:
        file.attrs.update(dict.fromkeys(layouts.ATTRIBUTES["result"], 0))
        file.attrs["levels"] = LEVELS
        file.attrs["cell_id"] = cell_id
        _fill(file, "result", {"one": 1, "attempt": 1, "epoch": 1, "step": 100, "test": 2})


def journal_lines(run: Path) -> list[dict[str, object]]:
    """The journal of a study, parsed."""
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def _fill(file, layout: str, sizes: Mapping[str, int], **given: np.ndarray) -> None:
    """Every column of a layout: the given values, else zeros of the dimension's length."""
    for name, column in layouts.LAYOUTS[layout].items():
        for level in LEVELS if "<level>" in name else ("",):
            full = name.replace("<level>", level)
            dimension = column.dimension.removesuffix("+1")
            rows = sizes.get(dimension, 1) + column.dimension.endswith("+1")
            shape = (rows,) if column.axes == 1 else (rows, 1)
            empty = np.full(shape, "") if column.dtype == "str" else np.zeros(shape)
            schema.put(file, full, given.get(name, empty), layout=layout)

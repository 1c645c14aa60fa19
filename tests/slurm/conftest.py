"""The live cluster of ``tests/cluster``, and a user who has staged this tree on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.login import Login

REPOSITORY = Path(__file__).resolve().parents[2]

SITE = """\
[paths]
root = "work"
[execution]
executor = "slurm"
device = "cpu"
[slurm]
partition = "normal"
gres = "gpu:1"
cpus_per_task = 1
mem_gb = 2
array_parallelism = 4
"""


@pytest.fixture(scope="session")
def login(request: pytest.FixtureRequest) -> Iterator[Login]:
    """A staged tree with a site.toml; it stays for inspection when a test failed."""
    if "SLURM_CONF" not in os.environ or os.geteuid() != 0:
        pytest.fail("these tests need root and the test cluster: run them with `make test-slurm`")
    staged = subprocess.run(
        [REPOSITORY / "tests/cluster/stage"], stdout=subprocess.PIPE, text=True, check=True
    )
    stage = Path(staged.stdout.strip())
    (stage / "site.toml").write_text(SITE)
    yield Login(stage)
    if request.session.testsfailed == 0:
        shutil.rmtree(stage)

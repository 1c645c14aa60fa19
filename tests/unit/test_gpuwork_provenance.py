from __future__ import annotations

import subprocess

import torch

from gpuwork import provenance


def test_the_code_digest_follows_names_and_content(tmp_path):
    (tmp_path / "a.py").write_text("one = 1\n")
    first = provenance.code_sha256(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert provenance.code_sha256(tmp_path) == first
    (tmp_path / "a.py").write_text("one = 2\n")
    changed = provenance.code_sha256(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, changed, provenance.code_sha256(tmp_path)}) == 3


def test_the_revision_says_whether_the_tree_is_clean(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.code_revision(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "a.py").write_text("one = 1\n")
    git("add", "a.py")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert provenance.code_revision(tmp_path) == commit
    (tmp_path / "a.py").write_text("one = 2\n")
    assert provenance.code_revision(tmp_path) == f"{commit}-dirty"


def test_facts_name_versions_precision_and_the_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    facts = provenance.collect(device="cpu")
    assert facts["torch_version"].startswith("2.13.0")
    assert facts["matmul_precision"] == torch.get_float32_matmul_precision()
    assert facts["slurm_job_id"] == "17"
    assert facts["cuda"] == "none"
    assert all(isinstance(value, str) for value in facts.values())

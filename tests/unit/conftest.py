import pytest

from gpuwork.workspace import Workspace


@pytest.fixture
def site(tmp_path):
    """A site file whose workspace is empty."""
    path = tmp_path / "site.toml"
    path.write_text('[paths]\nroot = "work"\n')
    return path


@pytest.fixture
def workspace(site):
    return Workspace.locate(site)

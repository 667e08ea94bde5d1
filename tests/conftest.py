"""What every room of the tests may ask for: the repository, the real data, and the one Ray of the session."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Set before anything imports ray: `ray.init` otherwise leaves a token under the home folder, and a later
# `ray start` changes its mode because of it; the two others keep a test run from talking to the network.
HERMETIC = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
os.environ.update(HERMETIC)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference fixtures: where ZS3_SHARED says, or beside the repository."""
    folder = Path(os.environ.get("ZS3_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, and {folder} is absent; set ZS3_SHARED to where it lies")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray of two CPUs for all tests of the session; leaves nothing behind in the home folder.

    Its folder is made here and kept short: Ray opens Unix sockets below it, whose paths end at 107 bytes.
    """
    import ray

    with tempfile.TemporaryDirectory(prefix="zs3-ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 << 20,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield
        ray.shutdown()

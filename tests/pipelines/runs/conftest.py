"""What the tests of runs share."""

from pathlib import Path

import pytest

from tests.servers.object_store import LIMITED_BUCKET


@pytest.fixture(params=["disk", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the tables of a run go: a folder, and a bucket."""
    if request.param == "disk":
        return str(tmp_path / "out")
    request.getfixturevalue("object_store")
    return f"s3://{LIMITED_BUCKET}/{tmp_path.name}"

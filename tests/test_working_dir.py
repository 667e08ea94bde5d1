"""What others get: the upload of `ray job submit --working-dir .`, which has neither data nor runs, and the wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import skimage.data
from deltalake import DeltaTable
from PIL import Image
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, create_package

NEEDED = {
    "jobs/label.py",
    "jobs/main.py",
    "pipelines/labelling/label.py",
    "pipelines/runs/run.py",
    "zs3/data/voc.json",
    "zs3/weights/zs3-mini/recipe.json",
    "zs3/weights/zs3-mini/model.safetensors",
    "pyproject.toml",
}

LEFT_BEHIND = [
    ".venv/lib/python3.11/site-packages/torch/big.so",
    ".git/objects/pack/pack.pack",
    "data/voc/JPEGImages/1.jpg",
    "runs/a/model.safetensors",
    "zs3-demo/labels/part.parquet",
    "kept/segments/_delta_log/0.json",
    "kept/segments/part-1.parquet",
    "official.pth",
    "images.tar",
    "docs/images/demo.png",
    "tests/test_here.py",
    "shared/voc.jpg",
    "zs3/__pycache__/images.cpython-311.pyc",
]


def packaged(folder: Path, target: Path) -> dict[str, int]:
    """Files that Ray packs of a working directory, and their sizes when packed, in bytes."""
    create_package(str(folder), target, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(target) as archive:
        return {entry.filename: entry.compress_size for entry in archive.infolist() if not entry.is_dir()}


def test_the_package_holds_the_code_and_its_weights_and_is_small(repo: Path, tmp_path: Path) -> None:
    files = packaged(repo, tmp_path / "package.zip")
    assert files.keys() >= NEEDED
    folders = {name.partition("/")[0] for name in files if "/" in name}
    assert folders <= {"zs3", "pipelines", "jobs", "zs3.egg-info"}
    assert not {Path(name).suffix for name in files} & {".pyc", ".parquet", ".jpg"}
    # Measured: 14 MB, nearly all of it the shipped weights. Ray takes up to 500 MiB.
    assert sum(files.values()) < GCS_STORAGE_MAX_SIZE / 10


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_data_runs_and_environments_stay(repo: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkout"
    for part in (".gitignore", ".rayignore", "jobs/label.py", "zs3/data/voc.json"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / part, folder / part)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"content")
    assert set(packaged(folder, tmp_path / "package.zip")) == {
        ".gitignore",
        ".rayignore",
        "jobs/label.py",
        "zs3/data/voc.json",
    }


COMMAND = "import sys\nfrom jobs.main import main\nsys.exit(main())\n"
"""What pip makes of an entry point."""


def test_the_wheel_labels_in_a_folder_whose_files_have_the_names_of_ours(repo: Path, tmp_path: Path) -> None:
    source, unpacked, working = (tmp_path / name for name in ("source", "unpacked", "working"))
    for layer in ("zs3", "pipelines", "jobs"):
        shutil.copytree(repo / layer, source / layer, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, source)
    files = {path.relative_to(source).as_posix() for path in source.glob("*/**/*") if path.is_file()}
    build = [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('..')"]
    subprocess.run(build, cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("zs3-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        assert files - set(archive.namelist()) == set()
    shutil.rmtree(source)
    working.mkdir()
    for name in ("pipelines", "jobs", "zs3"):
        (working / f"{name}.py").write_text("raise ImportError('the file of the user')")
    Image.fromarray(skimage.data.astronaut()[:128, 160:288]).save(working / "photo.png")
    (tmp_path / "zs3").write_text(COMMAND)
    arguments = ["--images", "photo.png", "--classes", "voc", "--checkpoint", "zs3-mini", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    environment.pop("RAY_ADDRESS", None)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "zs3"), "label", *arguments],
        cwd=working,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert DeltaTable(working / "run" / "labels").to_pyarrow_table().num_rows > 0

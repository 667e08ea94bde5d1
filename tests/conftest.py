"""What every room of the tests may ask for: the repository, the real data, and the one Ray of the session."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.servers.object_store import LIMITED_BUCKET, ObjectStore

if TYPE_CHECKING:
    from pipelines.training.worker import TrainingProgress
    from tests.support.parity import Recordings
    from zs3.config import Recipe
    from zs3.encoders import Encoder

REPOSITORY = Path(__file__).resolve().parent.parent

# Set before anything imports ray: `ray.init` otherwise leaves a token under the home folder, and a later
# `ray start` changes its mode because of it; the two next ones keep a test run from talking to the network, and the
# last ones keep a training of few steps from waiting for its controller.
HERMETIC = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
os.environ.update(HERMETIC)

# Where the session's object store will be is settled here, whether or not a test asks for it: Ray hands the
# environment that it starts with on to its workers, in whatever order tests run. Until the fixture starts the
# store, `s3://` leads to a port on which nothing listens; no test reaches a real bucket.
STORE = ObjectStore()
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ.update(STORE.environment())

# A busy machine must not fail a law: no deadlines.
settings.register_profile("zs3", deadline=None)
settings.load_profile("zs3")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the processes of `make test` share out: the tests of the session's Ray together, the others file by file."""
    for item in items:
        on_ray = "ray_session" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if on_ray else item.path.name))


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
def full_recordings_folder(shared: Path) -> Path:
    """The full recordings of the released code, of which tests/data/parity is cut."""
    return shared / "reference" / "fixtures"


@pytest.fixture(params=["small", "full"])
def recordings(request: pytest.FixtureRequest) -> "Recordings":
    """What the released code computed: the small set of this repository, then every value where the data folder is."""
    from tests.support.parity import SMALL, full_recordings

    if request.param == "small":
        return SMALL
    return full_recordings(request.getfixturevalue("full_recordings_folder"))


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """A real S3 server on loopback, which the environment of this process and of Ray's workers points to.

    It has one bucket, `LIMITED_BUCKET`; tests make others with names of their own, since all share the server.
    A test that stops or kills it has to start it again.
    """
    STORE.start()
    STORE.make_bucket(LIMITED_BUCKET)
    yield STORE
    STORE.close()


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


@pytest.fixture
def in_process() -> Iterator[None]:
    """Graphs run in this process instead of Ray's; together with `ray_session`, only tasks run in Ray's."""
    from tests.support.in_process import graphs_in_process

    with graphs_in_process():
        yield


@pytest.fixture(scope="session")
def recorded_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded CLIP, tiny and with random weights, in a file in OpenAI's names."""
    import torch

    from tests.support.parity import released_state

    path = tmp_path_factory.mktemp("clip") / "clip_openai_names.pth"
    torch.save(released_state("clip"), path)
    return path


@pytest.fixture(scope="session")
def recorded_encoder(recorded_clip: Path) -> "Encoder":
    """The recorded CLIP as an encoder."""
    import torch

    from zs3.encoders import EncoderConfig, load_encoder

    config = EncoderConfig(kind="open_clip", weights=str(recorded_clip))
    return load_encoder(config, device=torch.device("cpu"))


@dataclass(frozen=True)
class TrainedRun:
    """What `zs3 train` left of a recipe whose worker was killed on the way."""

    recipe: "Recipe"
    argv: list[str]
    data_root: Path
    result: dict[str, Any]
    """The last line of standard output; Ray writes there of the killed worker."""
    err: str
    steps: list[int]
    """Of the progress reports, in their order."""
    killed_after: int
    """Reports before the kill."""


@pytest.fixture(scope="session")
def trained_run(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A small FC-CLIP, trained by the command, once for all tests; its worker is killed after five of eight steps."""
    from jobs import train
    from tests.data.fcclip_networks import small_training
    from tests.support.processes import training_worker
    from tests.support.shapes import write_shapes
    from zs3.recipes import RECIPES

    root, recipe = tmp_path_factory.mktemp("trained"), small_training()
    argv = ["small", "--data-root", str(write_shapes(root)), "--out", str(root / "runs"), "--json"]
    argv += ["--workers.threads", "1", "--workers.cpus-per-worker", "0.5", "--workers.decode-tasks", "1"]
    argv += ["--workers.report-every-s", "0"]
    steps: list[int] = []
    killed: list[int] = []
    report = train._write_progress

    def kill_once(progress: "TrainingProgress") -> None:
        report(progress)
        steps.append(progress.step)
        # A report with a checkpoint waits until the one before it was taken: that of step 2 is known by step 5.
        if progress.step >= 5 and not killed:
            killed.append(len(steps))
            os.kill(training_worker(), signal.SIGKILL)

    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setitem(RECIPES, "small", lambda: recipe)
        patch.setattr(train, "_write_progress", kill_once)
        assert train.main(argv) == 0, err.getvalue()
    result = json.loads(out.getvalue().splitlines()[-1])
    return TrainedRun(recipe, argv, root, result, err.getvalue(), steps, killed[0])


@pytest.fixture(scope="session")
def tiny_recipe() -> "Recipe":
    """The whole model in very small: a ResNet of 4 channels, ten queries, sentences for words, no image branch."""
    from zs3.config import NamingSettings, Recipe, SegmentSettings, TextConfig
    from zs3.encoders import EncoderConfig
    from zs3.learning.augmentation import Augmentation
    from zs3.learning.losses import LossSettings
    from zs3.learning.optimizer import OptimizerSettings
    from zs3.learning.settings import TrainingConfig
    from zs3.nets.zegformer import ModelConfig

    sentences = TextConfig(encoder=EncoderConfig(kind="minilm"))
    return Recipe(
        name="tiny",
        model=ModelConfig(
            backbone_width=8, bottleneck_width=4, pyramid_dim=32, mask_dim=16, hidden_dim=16, num_queries=10,
            num_heads=2, feedforward_dim=32, num_layers=2, dropout=0.1, text_dim=384, temperature=0.05,
        ),
        query_text=sentences,
        image_text=sentences,
        training=TrainingConfig(
            datasets=(("folder", "shapes"),), steps=6, batch_size=4, checkpoint_every=2, background_is_negative=True,
            optimizer=OptimizerSettings(learning_rate=1e-3, clip_norm=1.0),
            augmentation=Augmentation(crop_px=64, scale_range=(1.0, 1.2)),
            losses=LossSettings(mask_resolution="prediction", spare_queries_on_void=0.5),
        ),
        segmenting=SegmentSettings(short_side_px=64, max_side_px=128, image_branch=False),
        naming=NamingSettings(branches="query"),
    )  # fmt: skip

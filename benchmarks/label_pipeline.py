"""What Ray costs a labelling run, and what an image costs the actor in memory.

    python benchmarks/label_pipeline.py speed  --images FOLDER --checkpoint zs3-mini --limit 500
    python benchmarks/label_pipeline.py speed  --images FOLDER --limit 2000 --cheap --object-store
    python benchmarks/label_pipeline.py memory --images FOLDER --checkpoint zs3-mini

`speed` labels the same images with the same actor, settings and environment: in a bare loop, through
the pipeline, and in a bare loop again, each in a process of its own. The bare loop is timed with the
decoding of its images and without; start-up is left out on all sides. `--object-store` goes through the pipeline once
more, with images and tables in a SeaweedFS of its own on this machine; `--cheap` leaves most of the model out, so
that what Ray costs weighs more; images are repeated under other names where there are too few. `memory` resizes an
image to each size and reads the peak of the process, which the kernel keeps.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import tyro
from PIL import Image

from pipelines.execution import ActorPlan, Execution, cores
from pipelines.labelling.image_stage import PIXELS, read_and_decode
from pipelines.labelling.label import (
    LabelActor,
    LabellerFactory,
    LabelRequest,
    PreparedLabel,
    label,
    prepare_label,
)
from pipelines.ray_session import WORKER_ENVIRONMENT
from pipelines.runs.catalogue import catalogue_of
from pipelines.runs.committer import Committer
from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.images.codec import decode

SIZES = ((500, 375), (2048, 1536))
"""Width and height in pixels."""

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and on which images."""

    what: tyro.conf.Positional[Literal["speed", "memory", "bare", "pipeline", "store"]]
    """speed or memory; bare, pipeline and store are the parts of speed, run in processes of their own."""
    images: str
    """As for `zs3 label`."""
    checkpoint: str = "zs3-mini"
    """As for `zs3 label`."""
    classes: str = "voc"
    """As for `zs3 label`."""
    limit: int = 500
    """Images to label."""
    bare_limit: int | None = None
    """Images of the bare loops; by default all of them."""
    object_store: bool = False
    """Measure the pipeline over an object store too."""
    cheap: bool = False
    """Leave the image branch out and resize pictures to a shorter side of 128 pixels."""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    """How the pipeline runs; the bare loop takes its batch size and threads."""


def main() -> int:
    """Measure and print one line of JSON."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    parts = {"speed": speed, "memory": memory, "bare": bare, "pipeline": pipeline, "store": store}
    with tempfile.TemporaryDirectory() as folder:
        if options.what in ("speed", "memory"):
            options = prepared(options, Path(folder))
        sys.stdout.write(json.dumps(parts[options.what](options)) + "\n")
    return 0


def prepared(options: Options, folder: Path) -> Options:
    """Options whose images are as many as asked for, and whose checkpoint resizes pictures as asked for."""
    held = [Path(uri) for batch in catalogue_of(options.images).rows() for uri in batch["uri"].to_pylist()]
    (folder / "images").mkdir()
    for number in range(options.limit):
        source = held[number % len(held)]
        (folder / "images" / f"{number:06}{source.suffix}").symlink_to(source)
    options = replace(options, images=str(folder / "images"))
    if not options.cheap:
        return options
    checkpoint = load_checkpoint(options.checkpoint)
    segmenting = replace(checkpoint.recipe.segmenting, short_side_px=128, image_branch=False)
    naming = replace(checkpoint.recipe.naming, branches="query")
    smaller = replace(checkpoint.recipe, segmenting=segmenting, naming=naming)
    save_checkpoint(folder / "checkpoint", smaller, checkpoint.network(), checkpoint.seen_classes)
    return replace(options, checkpoint=str(folder / "checkpoint"))


def speed(options: Options) -> dict[str, Any]:
    """Images per second of the pipeline and of the bare loops before and after it."""
    loop = replace(options, limit=min(options.limit, options.bare_limit or options.limit))
    before, through = _run_part("bare", loop), _run_part("pipeline", options)
    on_store = _run_part("store", options) if options.object_store else None
    after = _run_part("bare", loop)
    loops = {key: (before[key] + after[key]) / 2 for key in ("actor", "actor_and_decoding")}
    rate = through["images_per_second"]
    found = {
        "cores": cores(),
        "batch_size": options.execution.batch_size,
        "pipeline": through,
        "bare_before": before,
        "bare_after": after,
        "ratio_to_actor_alone": round(rate / loops["actor"], 3),
        "ratio_to_actor_and_decoding": round(rate / loops["actor_and_decoding"], 3),
    }
    if on_store:
        rate = on_store["images_per_second"]
        found |= {
            "store": on_store,
            "store_ratio_to_actor_alone": round(rate / loops["actor"], 3),
            "store_ratio_to_actor_and_decoding": round(rate / loops["actor_and_decoding"], 3),
        }
    return found


def bare(options: Options) -> dict[str, Any]:
    """The actor in a loop, without Ray: images per second without and with decoding."""
    plan = _plan(options)
    actor = _actor(plan, options)
    size = options.execution.batch_size
    labelling = decoding = 0.0
    pending = list(plan.work.pending)
    for start in range(0, len(pending), size):
        ids, uris = zip(*pending[start : start + size])
        refs = pa.table({"image_id": list(ids), "uri": list(uris)})
        began = time.perf_counter()
        batch = pa.concat_tables(
            read_and_decode(refs, max_pixels=plan.request.max_pixels, run=plan.info.digest)
        )
        decoded = time.perf_counter()
        actor(batch)
        decoding += decoded - began
        labelling += time.perf_counter() - decoded
    images = len(plan.work.pending)
    return {
        "images": images,
        "actor": round(images / labelling, 3),
        "actor_and_decoding": round(images / (labelling + decoding), 3),
    }


def pipeline(options: Options) -> dict[str, Any]:
    """The same images through `label`, into a table that is thrown away."""
    with tempfile.TemporaryDirectory() as out:
        return _through(_request(options, out), options)


def store(options: Options) -> dict[str, Any]:
    """The same with images and tables in an object store on this machine."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.servers.object_store import ObjectStore

    server = ObjectStore()
    try:
        server.start()
        os.environ.update(server.environment())
        server.make_bucket("images")
        filesystem = server.filesystem()
        for image in sorted(Path(options.images).iterdir()):
            with filesystem.open_output_stream(f"images/{image.name}") as stream:
                stream.write(image.read_bytes())
        request = replace(_request(options, "s3://images/run"), images="s3://images")
        return _through(request, options)
    finally:
        server.close()


def _through(request: LabelRequest, options: Options) -> dict[str, Any]:
    """What the pipeline does with a request, and how long the driver's commits took."""
    commits: list[float] = []
    commit = Committer.commit

    def timed(self: Committer) -> None:
        began = time.perf_counter()
        commit(self)
        commits.append(time.perf_counter() - began)

    Committer.commit = timed  # type: ignore[method-assign]
    result = label(request, options.execution)
    began = time.perf_counter()
    assert not prepare_label(request).work.pending
    again = time.perf_counter() - began
    return {
        "commit_share": round(sum(commits) / result.seconds, 4),
        "resume_share": round(again / result.seconds, 4),
        "images": result.images,
        "failed": result.failed,
        "images_per_second": round(result.images_per_second, 3),
        "seconds": round(result.seconds, 1),
        "startup_seconds": round(result.startup_seconds, 1),
    }


def memory(options: Options) -> dict[str, Any]:
    """Peak of the actor's process while it labels images of each size, one at a time, in MiB."""
    plan = _plan(options)
    source = decode(Path(next(iter(plan.work.pending))[1]).read_bytes())
    actor = _actor(plan, options)
    loaded = _resident("VmRSS")
    found: dict[str, Any] = {"loaded_mib": round(loaded)}
    for width, height in SIZES:
        encoded = io.BytesIO()
        Image.fromarray(source).resize((width, height)).save(encoded, "PNG")
        pixels_HW3 = decode(encoded.getvalue())
        row = {"image_id": "a", "uri": "a", "height": height, "width": width, "failures": []}
        batch = pa.Table.from_pylist([{**row, "pixels": pixels_HW3.tobytes()}], schema=PIXELS)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak that VmHWM shows
        for _ in range(2):
            actor(batch)
        peak = _resident("VmHWM")
        found[f"{width}x{height}"] = {"peak_mib": round(peak), "above_loaded_mib": round(peak - loaded)}
    return found


def _run_part(part: str, options: Options) -> dict[str, Any]:
    """One part in a process of its own, with the memory settings that actors have."""
    defaults = asdict(Execution())
    flags = {
        "--images": options.images,
        "--checkpoint": options.checkpoint,
        "--classes": options.classes,
        "--limit": options.limit,
    } | {
        f"--{key.replace('_', '-')}": value
        for key, value in asdict(options.execution).items()
        if value != defaults[key]
    }
    command = [sys.executable, __file__, part, *(str(word) for pair in flags.items() for word in pair)]
    done = subprocess.run(
        command, env={**os.environ, **WORKER_ENVIRONMENT}, check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _request(options: Options, out: str) -> LabelRequest:
    return LabelRequest(
        images=options.images,
        classes=options.classes,
        checkpoint=options.checkpoint,
        out=out,
        limit=options.limit,
    )


def _plan(options: Options) -> PreparedLabel:
    with tempfile.TemporaryDirectory() as out:
        return prepare_label(_request(options, out))


def _actor(plan: PreparedLabel, options: Options) -> LabelActor:
    actors = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=options.execution.threads)
    return LabelActor(
        model=LabellerFactory(),
        checkpoint=plan.request.checkpoint,
        vocabulary=plan.vocabulary,
        run=plan.info.digest,
        actors=actors,
    )


def _resident(field: str) -> float:
    """A line of this process's memory status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / MIB


if __name__ == "__main__":
    sys.exit(main())

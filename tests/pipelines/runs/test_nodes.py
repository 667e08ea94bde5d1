"""A run over several nodes, of which one is lost in the middle while another joins, ends with the same tables."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
import ray
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from pipelines.labelling.label import label, prepare_label
from pipelines.tables.delta_reader import provenance_of
from tests.servers.network import Network
from tests.servers.ray_nodes import Nodes
from tests.support.colour_labeller import SMALL, colours, expected, picture, request_for, table

IMAGES = 120
SETTINGS = {
    "delay_s": 0.2, "num_actors": 3, "cpus_per_actor": 1, "gpus_per_actor": 0, "label_selector": "room=models",
}  # fmt: skip
LABELS = "room=models"
"""Of all machines but the head."""
TIMEOUT_S = 600.0


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(IMAGES):
        picture(folder / f"i{index:03}.png", index)
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    return folder


def driver(repo, photos, out, address, inside):
    """A run that has begun, in a process of its own; what it says is in `OUT.log`, its result in `OUT.json`."""
    environment = {**os.environ, "PYTHONPATH": str(repo), "RAY_ADDRESS": address}
    command = [sys.executable, str(repo / "tests" / "support" / "node_run.py"), str(photos), out]
    with (
        (photos.parent / f"{out}.log").open("wb") as log,
        (photos.parent / f"{out}.json").open("wb") as out_file,
    ):
        return subprocess.Popen(
            [*inside, *command, json.dumps(SETTINGS)], env=environment, stdout=out_file, stderr=log
        )


def result_of(run, photos, out):
    """The result of a run that goes to its end."""
    said = photos.parent / f"{out}.log"
    assert run.wait(TIMEOUT_S) == 0, said.read_text()[-3000:]
    # Ray's words on lost nodes are on standard output too, and may come last.
    lines = (photos.parent / f"{out}.json").read_text().splitlines()
    return json.loads(next(line for line in reversed(lines) if line.startswith("{")))


def wait_for_rows(run, photos, out, images):
    """Wait until so many images are in the table of a run."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        assert run.poll() is None and time.monotonic() < deadline, (photos.parent / f"{out}.log").read_text()[
            -3000:
        ]
        try:
            rows = DeltaTable(str(photos.parent / out / "labels")).to_pyarrow_table(columns=["image_id"])
        except TableNotFoundError:
            rows = None
        if rows is not None and len(set(rows["image_id"].to_pylist())) >= images:
            return
        time.sleep(0.1)


def has_actor(node):
    """Whether an actor of the run is on a node."""
    return any("LabelActor" in command for command in node.processes().values())


def test_actors_run_where_a_label_is_and_a_machine_that_is_lost_while_another_joins_changes_no_row(
    repo, photos
):
    with ExitStack() as stack:
        try:
            network = stack.enter_context(Network())
        except PermissionError:  # nodes then share the addresses and processes of this machine
            network = None
        nodes = stack.enter_context(Nodes(workers=2, labels=LABELS, network=network))
        run = driver(repo, photos, "out", nodes.address, nodes.inside)
        try:
            wait_for_rows(run, photos, "out", IMAGES // 4)
            victim = nodes.workers[0]
            assert has_actor(victim) and not has_actor(nodes.head), "actors run where the label is"
            nodes.kill(victim)
            nodes.join(LABELS)
            result = result_of(run, photos, "out")
            nodes.wait()
        finally:
            run.kill()
            run.wait()
    assert (result["images"], result["failed"], result["skipped"]) == (IMAGES, 0, 0)
    request = request_for(photos, "out")
    assert table(request) == expected(photos)
    work = prepare_label(request, colours()).work
    assert (len(work.pending), work.skipped, work.failed_before) == (0, IMAGES, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_actors": 2, "cpus_per_actor": 0.5},
        {"num_actors": 1, "max_actors": 2, "cpus_per_actor": 0.5},
        {"label_selector": "ray.io/node-id={node}", "cpus_per_actor": 0.5},
        {"gpus_per_actor": 0.0, "threads": 2, "cpus_per_actor": 1.0},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_how_a_run_is_executed_changes_neither_its_digest_nor_its_rows(ray_session, photos, settings):
    for path in sorted(photos.iterdir())[14:]:
        path.unlink()
    node = ray.get_runtime_context().get_node_id()
    settings = {
        name: value.format(node=node) if name == "label_selector" else value
        for name, value in settings.items()
    }
    request = request_for(photos)
    label(request, replace(SMALL, **settings), model=colours())
    assert table(request) == expected(photos)
    provenance = provenance_of(DeltaTable(f"{request.out}/labels"))
    assert provenance["digest"] == prepare_label(request, colours()).info.digest
    assert not any(name in json.dumps(provenance) for name in settings)

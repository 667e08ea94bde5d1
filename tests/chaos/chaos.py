"""Chaos: label pictures while processes, a node and the object store are killed at random, and compare the tables.

    python tests/chaos/chaos.py [--seed N] [--rounds N] [--checkpoint zs3-mini] [--notes docs/chaos.md]

Round k has the seed N + k - 1; `--seed S --rounds 1` plays the round of seed S again: the same things are killed after
the same pauses, as far as a busy machine allows. Pictures are those of MSRC below $ZS3_SHARED or ../shared, or drawn
where that is absent; they and the tables lie in SeaweedFS, and a Ray of two nodes labels them. Exit code 1 if a round
failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it is run as a file

from tests.chaos.plan import BLOWS, planned
from tests.chaos.round import ENDED, Round, Tables, World, carried_out, read_tables
from tests.servers.object_store import ObjectStore
from tests.servers.ray_nodes import Nodes
from tests.support.colour_labeller import picture

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = 120
BROKEN = 3
"""Files among the images that are none, so that there are failures too."""

EXECUTION = [
    *("--num-actors", "2", "--cpus-per-actor", "1", "--gpus-per-actor", "0", "--threads", "1"),
    *("--batch-size", "2", "--images-per-block", "4", "--images-per-file", "6"),
    *("--commit-interval-s", "0.5", "--stall-timeout-s", "120"),
]  # fmt: skip
LAST_RESULT = "## Last result\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Play the rounds; the exit code."""
    options = _options(argv)
    # Before anything of Ray's is imported, and handed on to its nodes and to every command.
    os.environ.update(
        {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    )
    store = ObjectStore()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update({**store.environment(), "PYTHONPATH": str(REPOSITORY)})
    with tempfile.TemporaryDirectory(prefix="zs3-chaos-") as folder:
        try:
            store.start()
            for name in ("pictures", "runs"):
                store.make_bucket(name)
            source = _upload(store, Path(folder))
            (Path(folder) / "classes.txt").write_text("red\nblue *\n")
            with Nodes(workers=1) as nodes:
                world = World(
                    nodes=nodes,
                    store=store,
                    command=lambda out: _command(options, Path(folder), out),
                    environment={**os.environ, "RAY_ADDRESS": nodes.address},
                )
                began = time.monotonic()
                wanted = _uninterrupted(world, Path(folder))
                _tell(
                    f"{IMAGES + BROKEN} images ({source}), uninterrupted: {time.monotonic() - began:.0f} s, "
                    + ", ".join(f"{len(rows)} {name}" for name, rows in wanted.items())
                )
                rounds = [
                    _round(options.seed + number, world, Path(folder), wanted, options.blows)
                    for number in range(options.rounds)
                ]
        finally:
            store.close()
    failed = [one.seed for one in rounds if one.wrong]
    summary = (
        f"{len(rounds) - len(failed)} of {len(rounds)} rounds ended with the tables of an uninterrupted run"
    )
    _tell(
        summary + "".join(f"; again: python tests/chaos/chaos.py --seed {seed} --rounds 1" for seed in failed)
    )
    if options.notes:
        _note(options.notes, source, rounds, summary)
    return int(bool(failed))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(100_000))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--blows", type=int, default=BLOWS, help="things that are killed in a round")
    parser.add_argument("--delay-s", type=float, default=0.2, help="what the fake model takes for a picture")
    parser.add_argument("--checkpoint", help="label with this one, as voc, instead of with the fake model")
    parser.add_argument("--notes", type=Path, help="a page whose last result is to be written anew")
    return parser.parse_args(argv)


def _command(options: argparse.Namespace, folder: Path, out: str) -> list[str]:
    """The command of a run into `out`."""
    label = [sys.executable, "-m", "jobs.main", "label"]
    if not options.checkpoint:
        label = [sys.executable, str(REPOSITORY / "tests" / "chaos" / "driver.py"), str(options.delay_s)]
    classes = "voc" if options.checkpoint else str(folder / "classes.txt")
    checkpoint = options.checkpoint or "colours"
    asked = ["--images", "s3://pictures/", "--out", out, "--classes", classes, "--checkpoint", checkpoint]
    return [*label, *asked, *EXECUTION]


def _upload(store: ObjectStore, folder: Path) -> str:
    """Put the images into the store; where they are from."""
    shared = Path(os.environ.get("ZS3_SHARED", REPOSITORY.parent / "shared"))
    photos = sorted((shared / "data" / "msrc_mini" / "images").glob("*.*"))[:IMAGES]
    source = "MSRC" if len(photos) == IMAGES else "drawn"
    if source == "drawn":
        photos = [folder / f"i{index:03}.png" for index in range(IMAGES)]
        for index, path in enumerate(photos):
            picture(path, index)
    contents = {path.name: path.read_bytes() for path in photos}
    whole = next(iter(contents.values()))
    contents |= {f"broken{n}.jpg": whole[: len(whole) * n // (2 * BROKEN)] for n in range(BROKEN)}
    filesystem = store.filesystem()
    for name, content in contents.items():
        with filesystem.open_output_stream(f"pictures/{name}") as stream:
            stream.write(content)
    return source


def _uninterrupted(world: World, folder: Path) -> Tables:
    """The tables of a run that nothing happens to.

    Raises:
        RuntimeError: it did not end as it should.
    """
    done = subprocess.run(
        world.command("s3://runs/whole"),
        env=dict(world.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in ENDED:
        raise RuntimeError(
            f"the uninterrupted run ended with exit code {done.returncode}: {done.stderr[-3000:]}"
        )
    return read_tables("s3://runs/whole")


def _round(seed: int, world: World, folder: Path, wanted: Tables, blows: int) -> Round:
    """Play one round, and say how it went."""
    log = folder / f"round-{seed}.log"
    done = carried_out(seed, planned(seed, blows), world, f"s3://runs/{seed}-{time.time_ns()}", log, wanted)
    _tell(done.line)
    if done.wrong:
        _tell(log.read_text(errors="replace")[-3000:])
    return done


def _note(page: Path, source: str, rounds: Sequence[Round], summary: str) -> None:
    """Write the last result into a page, in place of the one before."""
    head = page.read_text().partition(LAST_RESULT)[0]
    seeds = ", ".join(str(one.seed) for one in rounds)
    rows = [
        f"| {one.seed} | {', '.join(one.hits)} | {one.restarts} | {one.seconds:.0f} | "
        f"{'; '.join(one.wrong).replace('|', '/') or 'equal'} |"
        for one in rounds
    ]
    machine = f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    page.write_text(
        "\n".join(
            [
                head + LAST_RESULT,
                f"{time.strftime('%Y-%m-%d')}, {IMAGES} images ({source}) and {BROKEN} broken ones, {machine}; "
                f"seeds {seeds}:",
                f"{summary}.",
                "",
                "| seed | killed | given again | seconds | tables |",
                "|---|---|---|---|---|",
                *rows,
                "",
            ]
        )
    )


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

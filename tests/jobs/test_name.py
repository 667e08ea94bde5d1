"""`zs3 segment` and `zs3 name`: exit codes, the error line, the JSON line, dry runs."""

import json

import numpy as np
import pytest
from PIL import Image

from jobs import name as name_command
from jobs import segment as segment_command
from tests.support.stored_segments import grouping, naming
from zs3.images.codec import encode_label_png

RUN = [
    "images",
    "failed",
    "skipped",
    "seconds",
    "images_per_second",
    "out",
    "startup_seconds",
    "failed_before",
    "other_files",
]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        pixels = np.zeros((8, 12, 3), np.uint8)
        pixels[:, :, 2] = 200
        pixels[:, : 4 * index, [0, 2]] = (200, 0)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"i{index}.png")
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    return tmp_path / "photos"


def to_segment(*more, out="kept"):
    return ["--images", "photos", "--checkpoint", "colours", "--out", out, *more]


def to_name(*more, segments="kept", classes="classes.txt"):
    return ["--segments", segments, "--classes", classes, "--out", "named", *more]


def test_segment_then_name_with_a_bad_image(in_process, photos, capfd):
    (photos / "bad.jpg").write_bytes(b"no picture")
    assert segment_command.main(to_segment("--json"), model=grouping()) == 3
    out, err = capfd.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert list(result) == RUN
    assert (result["images"], result["failed"], result["out"]) == (3, 1, "kept")
    assert "3 images segmented, 1 failed" in err and "zs3 name --segments kept" in err

    assert name_command.main(to_name("--dry-run", "--json", "--naming.weight", "0.5"), model=naming()) == 0
    plan = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (plan["dry_run"], plan["images"], plan["skipped"]) == (True, 3, 0)
    assert name_command.main(to_name("--dry-run", "--naming.resize-first", "yes"), model=naming()) == 0
    text = capfd.readouterr().out
    assert "3 at kept: 3 to name, 0 done" in text and "naming      resize_first True" in text

    assert name_command.main(to_name("--json", "--naming.calibration", "0.25"), model=naming()) == 0
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[-1])["images"] == 3
    assert "3 images named, 0 failed" in err
    assert name_command.main(to_name("--naming.calibration", "0.5"), model=naming()) == 1
    assert "made with a different naming" in capfd.readouterr().err


def test_a_dry_run_of_segment_tells_all_and_writes_nothing(photos, capsys):
    assert segment_command.main(to_segment("--dry-run"), model=grouping()) == 0
    text = capsys.readouterr().out
    for expected in ("3 at photos: 3 to segment, 0 done", "store compact", "nothing was written"):
        assert expected in text
    assert (
        segment_command.main(to_segment("--dry-run", "--json", "--store", "lossless"), model=grouping()) == 0
    )
    assert json.loads(capsys.readouterr().out)["images"] == 3
    assert not (photos.parent / "kept").exists()


def test_a_dry_run_with_given_masks_says_for_how_many_images_there_are(photos, capsys):
    (photos.parent / "labels").mkdir()
    for image_id in ("i0", "i2"):
        (photos.parent / f"labels/{image_id}.png").write_bytes(encode_label_png(np.ones((8, 12), np.int32)))
    assert segment_command.main(to_segment("--dry-run", "--masks", "labels"), model=grouping()) == 0
    text = capsys.readouterr().out
    assert "label PNGs at labels, for 2 of the 3 images to segment" in text and "proposals " in text


@pytest.mark.parametrize(
    ("command", "argv", "model", "message"),
    [
        (segment_command, to_segment("--store", "best"), grouping(), "no mask store is called 'best'"),
        (
            segment_command,
            to_segment("--masks", "compact"),
            grouping(),
            "no masks at 'compact'; expected COCO's",
        ),
        (segment_command, to_segment(), None, "checkpoint 'colours' has no recipe.json"),
        (
            segment_command,
            to_segment(out="classes.txt"),
            grouping(),
            "classes.txt is a file, expected a folder",
        ),
        (name_command, to_name(), naming(), "no segments table at"),
        (name_command, to_name(classes="gone.txt"), naming(), "class list 'gone.txt' is neither"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(photos, capsys, command, argv, model, message):
    assert command.main(argv, model=model) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("zs3: error: ") and message in err


@pytest.mark.parametrize("command", [segment_command, name_command])
def test_help_ends_with_0_and_wrong_usage_with_2(command, capsys):
    assert command.main(["--help"]) == 0
    assert "--out" in capsys.readouterr().out
    assert command.main(["--speed", "9"]) == 2

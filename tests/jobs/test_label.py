"""`zs3 label`: exit codes, the error line, the JSON line, and the queries that the summary offers."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jobs import label as command
from jobs.cli.exit_codes import guarded, one_line
from jobs.main import COMMANDS
from jobs.main import main as zs3
from pipelines.labelling.label import LabellerFactory, ModelInfo
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from zs3.tables import FAILURES


def shades(*, broken=False):
    """A model that calls bright pixels 1 and dark ones 2, or fails on all; nested, so it travels by value."""

    def load(checkpoint, vocabulary, device):
        class Shades:
            def __init__(self):
                self.seen, self.digest = {1: True, 2: False}, "0123456789abcdef"

            def label(self, pictures):
                if broken:
                    raise RuntimeError("no memory for this")
                return [
                    (np.where(p[..., 0] > 127, 1, 2).astype(np.int32), {1: 0.5, 2: 0.25}) for p in pictures
                ]

        return Shades()

    def describe(checkpoint, vocabulary):
        provenance = {"checkpoint": "c" * 64, "vocabulary": vocabulary.digest}
        return ModelInfo(digest="0123456789abcdef", provenance=provenance, seen={1: True, 2: False})

    return LabellerFactory(load=load, describe=describe)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        Image.fromarray(np.full((6, 8, 3), 80 * index, np.uint8)).save(folder / f"i{index}.png")
    (tmp_path / "classes.txt").write_text("bright\ndark: gloomy *\n")
    return folder


def arguments(*more, images="photos", classes="classes.txt", out="out"):
    return ["--images", images, "--classes", classes, "--checkpoint", "shades", "--out", out, *more]


def test_a_run_with_a_bad_image_ends_with_3_one_json_line_and_queries_that_work(ray_session, photos, capfd):
    (photos / "bad.jpg").write_bytes(b"no picture")
    (photos / "bad.jp2").write_bytes(b"not read")
    code = command.main(arguments("--json", "--limit", "4", "--batch-size", "2"), model=shades())
    out, err = capfd.readouterr()
    assert code == 3
    result = json.loads(out.splitlines()[-1])
    assert list(result) == [
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
    assert result["other_files"] == {".jp2": 1} and "left out, as no images: 1 of kind .jp2" in err
    assert (result["images"], result["failed"], result["skipped"], result["out"]) == (3, 1, 0, "out")
    assert "4/4 images" in err and "images/s" in err and "3 images labelled, 1 failed, 0 skipped" in err

    (photos.parent / "out" / "labels" / "part-half.parquet").write_bytes(b"PAR1")
    answers = []
    for line in err.splitlines():
        if " -c " in line:
            query = line.split(":", 1)[1]
            # Not its exit code: on a busy machine, threads of the Delta library may abort a process that ends.
            answers.append(subprocess.run(query, shell=True, capture_output=True, text=True).stdout)
    assert "bad" in answers[0] and "decode" in answers[0]
    assert "bright" in answers[1] and "dark" in answers[1] and "96" in answers[1]


def test_a_model_that_always_fails_ends_with_1_and_one_line(ray_session, photos, capfd):
    for index in range(4, 40):
        (photos / f"i{index}.png").write_bytes((photos / "i0.png").read_bytes())
    assert command.main(arguments("--json"), model=shades(broken=True)) == 1
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("zs3: error")]
    assert "failed on 32 images in a row, the last time with RuntimeError: no memory for this" in line
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "gone"}, "'gone' does not exist"),
        ({"images": "empty"}, "no image below 'empty' (it holds nothing at all)"),
        ({"images": "gone/*.jpg"}, "no file matches 'gone/*.jpg'"),
        ({"classes": "gone.txt"}, "class list 'gone.txt' is neither a file nor a shipped name"),
        ({"classes": "twice.txt"}, "names 'cat' twice, on lines 1 and 3"),
        ({"classes": "blank.txt"}, "is empty"),
        ({"out": "classes.txt"}, "classes.txt is a file, expected a folder; choose another --out"),
        ({"out": "other"}, "holds another run, made with a different checkpoint (x there, cccccccccccc now)"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(photos, capsys, changes, message):
    (photos.parent / "empty").mkdir()
    (photos.parent / "twice.txt").write_text("cat\ndog\ncat\n")
    (photos.parent / "blank.txt").write_text("\n\n")
    there = str(photos.parent / "other" / "failures")
    provenance = {
        "run": {
            "checkpoint": "x",
            "vocabulary": shades().describe("", _vocabulary()).provenance["vocabulary"],
        }
    }
    open_table(there, FAILURES, provenance)
    before = sorted(photos.parent.rglob("*"))
    assert command.main(arguments(**changes), model=shades()) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("zs3: error: ") and message in err
    assert sorted(photos.parent.rglob("*")) == before


def _vocabulary():
    from zs3.vocabulary import load_vocabulary

    return load_vocabulary("classes.txt")


def test_a_checkpoint_that_is_none_is_named_in_one_line(photos, capsys):
    assert command.main(arguments()) == 1
    err = capsys.readouterr().err
    assert err.startswith("zs3: error: checkpoint 'shades' has no") and err.count("\n") == 1


def test_a_dry_run_tells_all_and_writes_nothing(photos, capsys):
    before = sorted(photos.parent.rglob("*"))
    assert command.main(arguments("--dry-run", "--limit", "3"), model=shades()) == 0
    text = capsys.readouterr().out
    for expected in (
        "3 at photos: 3 to label, 0 done",
        "seen      1: bright",
        "unseen    1: dark",
        "run 0123456789ab",
        "batch_size 4",
        "nothing was written",
    ):
        assert expected in text
    assert command.main(arguments("--dry-run", "--json"), model=shades()) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (plan["dry_run"], plan["images"], plan["skipped"]) == (True, 4, 0)
    assert plan["classes"] == [
        {"id": 1, "name": "bright", "seen": True},
        {"id": 2, "name": "dark", "seen": False},
    ]
    assert sorted(photos.parent.rglob("*")) == before


def test_a_dry_run_counts_what_failed_before(photos, capsys):
    model = shades()
    provenance = {"run": dict(model.describe("", _vocabulary()).provenance)}
    uri = str(photos.parent / "out" / "failures")
    row = {name: "" for name in FAILURES.names} | {"image_id": "i1", "attempts": 1}
    row["uri"] = str(photos / "i1.png")
    failed = write_data_file(uri, _failure(row, uri, provenance))
    publish(open_table(uri, FAILURES, provenance), FAILURES, [failed], run="r", written_ms=0)
    assert command.main(arguments("--dry-run"), model=model) == 0
    assert "3 to label, 0 done, 1 failed before, for --retry-failures" in capsys.readouterr().out
    assert command.main(arguments("--dry-run", "--retry-failures"), model=model) == 0
    assert "1 to label (1 of them failed before), 0 done, 3 not tried yet" in capsys.readouterr().out


def _failure(row, uri, provenance):
    import pyarrow as pa

    open_table(uri, FAILURES, provenance)
    return pa.Table.from_pylist([row], schema=FAILURES)


@pytest.mark.parametrize(
    "argv", [[], ["--images", "x"], arguments("--limit", "many"), arguments("--speed", "9")]
)
def test_wrong_usage_ends_with_2(argv, capsys):
    assert command.main(argv) == 2
    assert capsys.readouterr().out == ""


def test_help_ends_with_0_and_names_every_option(capsys):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    for option in (
        "--images",
        "--classes",
        "--checkpoint",
        "--out",
        "--limit",
        "--dry-run",
        "--json",
        "--max-pixels",
    ):
        assert option in text


def test_the_manual_names_every_verb_and_loads_nothing_heavy():
    program = (
        "import sys; from jobs.main import main; assert main(['--help']) == 0; "
        "heavy = {'torch', 'ray', 'numpy', 'tyro', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in (*COMMANDS, "EXIT CODES", "EXAMPLES", "failures"):
        assert word in done.stdout


def test_an_unknown_verb_is_wrong_usage_with_a_hint(capsys):
    assert zs3(["lable"]) == 2
    assert "did you mean 'label'?" in capsys.readouterr().err
    assert zs3([]) == 2


def test_errors_become_one_line_and_a_traceback_on_request(capsys, monkeypatch):
    def fail():
        raise KeyError("a\nb")

    assert guarded(fail) == 1
    assert capsys.readouterr().err == "zs3: error: KeyError: 'a\\nb' (ZS3_DEBUG=1 shows where)\n"
    monkeypatch.setenv("ZS3_DEBUG", "1")
    assert guarded(fail) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interruption_and_exit_codes_pass(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert guarded(interrupted) == 130
    assert guarded(lambda: sys.exit(2)) == 2
    assert (
        one_line(FileNotFoundError(2, "No such file or directory", "/x")) == "/x: No such file or directory"
    )
    assert one_line(ValueError("two\n lines")) == "two lines"


def test_of_an_error_on_the_cluster_the_line_tells_what_our_code_raised():
    from ray.exceptions import RayTaskError, WorkerCrashedError

    report = (
        "ray::MapBatches()\nKeyError: 'x'\n\nThe above exception was the cause\n  raise\n"
        "RuntimeError: the model failed\n\nray.exceptions.UserCodeException: UDF failed to process a block"
    )
    assert one_line(RayTaskError("label", report, ValueError("any"))) == "the model failed"
    assert one_line(WorkerCrashedError()).startswith("WorkerCrashedError: The worker died")

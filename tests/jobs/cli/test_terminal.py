"""What a run writes, to a terminal and to tables, holds no secret and controls nothing."""

import json

import pyarrow as pa
import pytest

from jobs import label, segment
from jobs.cli.exit_codes import guarded
from jobs.cli.options import print_json
from pipelines.execution import Execution
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, prepare_label
from pipelines.labelling.label import label as label_images
from pipelines.labelling.retry import prepare_retry
from tests.support.colour_labeller import colours, make_photos, request_for, table
from tests.support.in_process import ONE, run_here
from tests.support.listings import pending_table

SECRET = "hunter2-never-to-be-seen"


def label_here(request):
    """As `pipelines.labelling.label.label`, without Ray."""
    plan = prepare_label(request, colours())
    if not plan.work.pending:
        return label_images(request, Execution(), model=colours())
    run = plan.work.target.digest
    pictures = pa.concat_tables(
        read_and_decode(pending_table(plan.work), max_pixels=request.max_pixels, run=run)
    )
    actor = LabelActor(
        model=colours(), checkpoint=request.checkpoint, vocabulary=plan.vocabulary, run=run, actors=ONE
    )
    return run_here(pictures, actor, plan.work)


def test_a_run_with_passwords_in_its_uris_writes_none_and_is_continued(tmp_path):
    photos = make_photos(tmp_path, 2)
    listing = tmp_path / "list.txt"
    gone = f"memory://me:{SECRET}@host/gone.png?token={SECRET}"
    listing.write_text(f"{photos}/i0.png\n{photos}/i1.png\n{gone}\n")
    request = request_for(photos, images=str(listing), checkpoint=f"s3://me:{SECRET}@host/colours")
    result = label_here(request)
    assert (result.images, result.failed) == (2, 1)
    (failure,) = table(request, "failures")
    assert failure["uri"] == "memory://***@host/gone.png?token=***" and failure["stage"] == "read"
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 6 and not [path for path in written if SECRET.encode() in path.read_bytes()]
    for name in ("labels", "failures", "shards"):  # columns are compressed
        assert SECRET not in str(table(request, name) if name != "shards" else shards(request))
    again = label_here(request)
    assert (again.images, again.failed, again.skipped, again.failed_before) == (0, 0, 3, 1)
    work = prepare_label(request_for(photos, images=str(listing), retry_failures=True,
                                     checkpoint=request.checkpoint), colours()).work  # fmt: skip
    assert [uri for _, uri in work.pending] == [gone], "the listing has what the table has not"
    with pytest.raises(ValueError, match="without the secrets that it was given; give the command"):
        prepare_retry(request.out)


def shards(request):
    from deltalake import DeltaTable

    return DeltaTable(f"{request.out}/shards").to_pyarrow_table().to_pylist()


@pytest.mark.parametrize(
    "words",
    [
        ["--storage-option", f"secret={SECRET}"],
        ["--storage-options", f"sekret={SECRET}"],
        ["--storage-options", f"secret:{SECRET}"],
        ["--storage-options", SECRET],
        ["--storage-options", f"{SECRET}=", "region=x"],
        ["--storage-options", f"secret={SECRET}", "--batch-size", "many"],
        ["--images", f"https://me:{SECRET}@[bad/x.png"],
        ["--images", f"nothing://me:{SECRET}@host/x.png"],
    ],
    ids=lambda words: words[0] + words[1].replace(SECRET, "S"),
)
@pytest.mark.parametrize("command", [label, segment])
def test_a_command_that_fails_prints_no_secret(tmp_path, capfd, monkeypatch, command, words):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "before")
    given = {"--images": str(tmp_path), "--checkpoint": "zs3-mini", "--out": str(tmp_path / "out")}
    if command is label:
        given["--classes"] = "voc"
    given = {name: value for name, value in given.items() if name != words[0]}
    assert command.main([*words, *(word for pair in given.items() for word in pair)]) in (1, 2)
    out, err = capfd.readouterr()
    assert SECRET not in out and SECRET not in err.replace("\n", "").replace(" ", "") and err


def test_a_misspelt_storage_option_is_told_what_was_meant(tmp_path, capfd):
    words = ["--images", "x", "--checkpoint", "c", "--out", str(tmp_path), "--storage-options", "sekret=abc"]
    assert segment.main(words) == 1
    line = capfd.readouterr().err
    assert "entry 1 of --storage-options has no name that is known; did you mean secret?" in line


def test_an_error_line_shows_control_characters_and_leaves_out_what_the_environment_keeps(capfd, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    def fails():
        raise ValueError(f"no file '\x1b]0;owned\x07.png', and {SECRET} was refused")

    assert guarded(fails) == 1
    assert capfd.readouterr().err == r"zs3: error: no file '\x1b]0;owned\x07.png', and *** was refused" + "\n"


def test_a_line_of_json_has_the_same_meaning_and_no_control_character(capfd):
    values = {"name": "é \x1b\x9b\u202e", "out": "s3://bucket/run"}
    print_json(values)
    line = capfd.readouterr().out
    assert json.loads(line) == values and line.strip().replace("é", "e").isascii()


def test_a_dry_run_of_hostile_names_controls_nothing(tmp_path, capfd):
    photos = make_photos(tmp_path, 1)
    (photos / "i0.png").rename(photos / "a\x1b[2Jb.png")
    (tmp_path / "classes.txt").write_text("re\x1b[31md\nblue *\n")
    request = request_for(photos)
    words = [
        "--images",
        request.images,
        "--classes",
        request.classes,
        "--checkpoint",
        "c",
        "--out",
        request.out,
    ]
    code = label.main([*words, "--dry-run"], model=colours())
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err and (code == 1 or r"\x1b[2J" in out)

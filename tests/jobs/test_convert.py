"""The commands convert and compose: what they print and how they end."""

import json
from dataclasses import asdict

import pytest
import torch

import jobs.convert as command
from jobs.main import main as zs3
from tests.data.composed_parts import encoder_folder, mask_source_folder
from tests.zs3.convert.test_zegformer import released_state_dict, small  # noqa: F401  (a fixture)


@pytest.fixture
def files(small, tmp_path):  # noqa: F811
    torch.save({"model": released_state_dict(small)}, tmp_path / "released.pth")
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(small)))
    return tmp_path


def test_a_conversion_prints_its_recipe_and_what_to_do_next(files, capsys):
    code = zs3(
        ["convert", str(files / "released.pth"), "--out", str(files / "out"), "--json",
         "--recipe", str(files / "recipe.json")]
    )  # fmt: skip
    out, err = capsys.readouterr()
    done = json.loads(out.splitlines()[-1])
    assert code == 0 and done["recipe"] == "small" and done["checkpoint"] == str(files / "out")
    assert "recipe small, as asked" in err and "zs3 label --checkpoint" in err
    assert (files / "out" / "model.safetensors").is_file()


def test_an_inferred_recipe_is_printed_with_its_reason(files, capsys, monkeypatch):
    done = command.Conversion(
        checkpoint="out",
        recipe="voc_r50",
        why="this",
        tensors=1,
        parameters=2,
        clip_tensors_left_out=3,
        seen_classes=15,
        prefix="module.",
        other_weights=("ema.",),
        precision="bfloat16",
    )
    monkeypatch.setattr(command, "convert", lambda *asked, **options: done)
    assert command.main(["x.pth", "--out", "out"]) == 0
    err = capsys.readouterr().err
    assert (
        "recipe voc_r50, because of this; --recipe chooses another" in err
        and "3 tensors of CLIP left out" in err
        and "weights below 'module.' are bfloat16 in the file and stored as float32; not used: those below 'ema.'"
        in err
    )


@pytest.mark.parametrize("damage", ["truncated", "absent", "weights of another network"])
def test_an_unusable_file_ends_in_one_line(files, capsys, damage):
    source = files / "released.pth"
    if damage == "truncated":
        source.write_bytes(source.read_bytes()[:-100])
    if damage == "absent":
        source.unlink()
    if damage == "weights of another network":
        torch.save({"fc.weight": torch.ones(1)}, source)
    assert (
        command.main([str(source), "--out", str(files / "out"), "--recipe", str(files / "recipe.json")]) == 1
    )
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(source) in err
    assert not (files / "out").exists()


def test_a_missing_out_is_wrong_usage(files):
    assert command.main([str(files / "released.pth")]) == 2


def test_a_composition_prints_its_parts_with_their_licences_and_what_to_do_next(tmp_path, capsys):
    masks, encoder = mask_source_folder("eomt", tmp_path / "eomt"), encoder_folder("vit", tmp_path / "vit")
    (masks / "README.md").write_text("---\nlicense: mit\n---\n")
    (encoder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    asked = ["compose", "--masks", str(masks), "--encoder", str(encoder), "--out"]
    assert zs3([*asked, str(tmp_path / "model"), "--embedding", "pooled", "--json"]) == 0
    out, err = capsys.readouterr()
    done = json.loads(out.splitlines()[-1])
    assert (done["family"], done["embedding"]) == ("eomt", "pooled")
    assert "masks of eomt, embedded by pooled" in err and f"{masks}: licence mit\n" in err
    assert "vit: licence cc-by-nc-4.0; read its terms before you use or share it" in err
    assert f"zs3 label --checkpoint {tmp_path / 'model'}" in err


def test_masks_of_no_known_family_end_in_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "detr"}')
    asked = ["compose", "--masks", str(tmp_path), "--encoder", "some/clip", "--out", str(tmp_path / "model")]
    assert zs3(asked) == 1
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1 and "of type 'detr', which is no mask source; known are mask2former, eomt" in err
    )

"""Composing: what the checkpoint refers to, names on the hub out of the cache, and what is refused."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from tests.data.composed_parts import encoder_folder, mask_source_folder
from tests.data.fcclip_networks import ARCHITECTURES
from tests.support.parity import SMALL
from zs3.checkpoint import load_checkpoint
from zs3.convert.compose import compose, encoder_name
from zs3.inference.labeller import load_segmenter

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder of tiny models, each in a folder of its own."""
    root = tmp_path_factory.mktemp("parts")
    mask_source_folder("eomt", root / "eomt")
    for name in ("vit", "rn"):
        encoder_folder(name, root / name)
    return root


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a folder into the hub's cache under a name; the network is off, as in all tests."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def cached(name: str, folder: Path, card: str = "") -> None:
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
        if card:
            (place / "snapshots" / COMMIT / "README.md").write_text(card)

    return cached


def test_a_checkpoint_holds_names_commits_digests_and_licences_and_no_weights(parts, hub, tmp_path):
    hub("someone/masks", parts / "eomt", "---\nlicense: cc-by-nc-4.0\n---\n# Masks\n")
    hub("someone/clip", parts / "vit", "no header")
    result = compose("someone/masks", "someone/clip", tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "parts.json", "recipe.json", "seen_classes.json",
    ]  # fmt: skip
    stored = json.loads((tmp_path / "model" / "parts.json").read_text())
    assert stored["masks"] | {"digest": ""} == {
        "name": "someone/masks", "revision": COMMIT, "digest": "", "licence": "cc-by-nc-4.0",
    }  # fmt: skip
    assert (result.family, result.embedding) == ("eomt", "class_tokens")
    assert result.parts["masks"].restricted and result.parts["encoder"].licence == ""
    loaded = load_checkpoint(str(tmp_path / "model"))
    assert loaded.recipe.image_text.encoder.weights.endswith(COMMIT) and loaded.state == {}
    picture = SMALL("fcclip")["rn/img4/image"]
    segmenter = load_segmenter(loaded, loaded.recipe.segmenting, device=torch.device("cpu"))
    assert segmenter.segment([picture])[0].image_embeddings_KE.shape == (5, 24)


@pytest.mark.parametrize(
    ("encoder", "embedding", "sides"),
    [
        ("vit", None, (48, 96)),
        ("vit", "pooled", (48, 96)),
        ("rn", None, (800, 1333)),
        ("rn", "crops", (640, 2560)),
    ],
)
def test_pictures_are_seen_at_a_size_that_suits_the_encoder(parts, tmp_path, encoder, embedding, sides):
    compose(str(parts / "eomt"), str(parts / encoder), tmp_path / "model", embedding)
    settings = load_checkpoint(str(tmp_path / "model")).recipe.segmenting
    assert (settings.short_side_px, settings.max_side_px) == sides


def test_a_part_that_has_changed_since_is_refused_by_name(parts, tmp_path):
    shutil.copytree(parts / "eomt", tmp_path / "eomt")
    compose(str(tmp_path / "eomt"), str(parts / "vit"), tmp_path / "model")
    digest = load_checkpoint(str(tmp_path / "model")).digest
    weights = tmp_path / "eomt" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(
        ValueError, match=r"eomt has changed since checkpoint '.*model' was composed: its digest is"
    ):
        load_checkpoint(str(tmp_path / "model"))
    compose(str(tmp_path / "eomt"), str(parts / "vit"), tmp_path / "again")
    assert load_checkpoint(str(tmp_path / "again")).digest != digest
    shutil.rmtree(tmp_path / "eomt")
    with pytest.raises(FileNotFoundError, match=r"needs .*eomt, which is not on this machine; put it back"):
        load_checkpoint(str(tmp_path / "again"))


def test_a_name_that_is_not_in_the_cache_is_told_at_once(parts, hub, tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="'some/thing' is neither in the cache nor reached on the hub; is"
    ):
        compose("some/thing", str(parts / "vit"), tmp_path / "model")
    hub("someone/masks", parts / "eomt")
    compose("someone/masks", str(parts / "vit"), tmp_path / "model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    with pytest.raises(
        FileNotFoundError, match="'someone/masks' is not in the cache of this machine; run zs3 compose"
    ):
        load_checkpoint(str(tmp_path / "model"))


def test_actors_ask_the_hub_for_nothing(parts, hub, tmp_path, monkeypatch):
    hub("someone/masks", parts / "eomt")
    compose("someone/masks", str(parts / "vit"), tmp_path / "model")
    asked = []
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *names, **options: asked.append(options) or real(*names, **options),
    )
    load_checkpoint(str(tmp_path / "model"))
    assert [options["local_files_only"] for options in asked] == [True]


def test_encoders_are_named_as_open_clip_names_them(parts, tmp_path):
    architecture = ARCHITECTURES["rn"][0]
    weights = parts / "rn" / "open_clip_model.safetensors"
    assert encoder_name(str(parts / "rn")) == ("", str(parts / "rn"))
    assert encoder_name("someone/clip") == ("", "someone/clip")
    assert encoder_name("convnext_large_d_320/laion2b_s29b_b131k_ft_soup") == (
        "convnext_large_d_320", "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
    )  # fmt: skip
    assert encoder_name(f"{architecture}/{weights}") == (architecture, str(weights))
    result = compose(str(parts / "eomt"), f"{architecture}/{weights}", tmp_path / "model")
    assert result.embedding == "pooled"
    loaded = load_checkpoint(str(tmp_path / "model")).recipe.image_text.encoder
    assert (loaded.architecture, loaded.weights) == (architecture, str(weights))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("ViT-B-16/no_such_tag", "'no_such_tag' is neither a file nor a pretrained tag of ViT-B-16"),
        ("ViT-B-16/openai", "trained with quick-GELU, which 'ViT-B-16' does not use"),
        ("ViTamin-S/datacomp1b", "ViTamin-S/datacomp1b has no safetensors on the hub"),
        ("ViT-B-16-SigLIP/{rn}", "ViT-B-16-SigLIP needs its tokenizer beside its weights; give a folder"),
        ("rn_tinytest/{vit}", "are of another architecture than rn_tinytest-quickgelu"),
    ],
)
def test_encoders_that_cannot_be_used_are_refused_in_one_line(parts, tmp_path, encoder, message):
    files = {name: parts / name / "open_clip_model.safetensors" for name in ("rn", "vit")}
    encoder = encoder.replace("rn_tinytest/", f"{ARCHITECTURES['rn'][0]}/").format(**files)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        compose(str(parts / "eomt"), encoder, tmp_path / "model")
    assert "\n" not in str(refused.value) and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_cfg": {"text_cfg": {"hf_model_name": "roberta"}}},
            "the text tower of .* is roberta of transformers",
        ),
        ({"model_cfg": None, "preprocess_cfg": None}, "expected model_cfg and preprocess_cfg"),
    ],
)
def test_folders_of_encoders_that_cannot_be_used_are_refused(parts, tmp_path, change, message):
    shutil.copytree(parts / "vit", tmp_path / "vit")
    where = tmp_path / "vit" / "open_clip_config.json"
    config = json.loads(where.read_text()) | change
    where.write_text(json.dumps({key: value for key, value in config.items() if value}))
    with pytest.raises(ValueError, match=message):
        compose(str(parts / "eomt"), str(tmp_path / "vit"), tmp_path / "model")
    (tmp_path / "vit" / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no open_clip_model\.safetensors"):
        compose(str(parts / "eomt"), str(tmp_path / "vit"), tmp_path / "model")


def test_a_folder_that_is_there_and_parts_that_are_damaged_are_refused(parts, tmp_path):
    compose(str(parts / "eomt"), str(parts / "vit"), tmp_path / "model")
    with pytest.raises(ValueError, match="model is there already; name a new folder"):
        compose(str(parts / "eomt"), str(parts / "vit"), tmp_path / "model")
    for written, message in (("{}", "expected the parts masks and encoder"), ("[", "cannot be read")):
        (tmp_path / "model" / "parts.json").write_text(written)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(str(tmp_path / "model"))
    (tmp_path / "model" / "parts.json").unlink()
    with pytest.raises(ValueError, match=r"has no parts\.json"):
        load_checkpoint(str(tmp_path / "model"))

"""Encoders: their oracles (transformers, ImageNet's own names), the laws of the protocol, and what they
refuse."""

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from zs3.encoders import EncoderConfig, load_encoder, minilm
from zs3.encoders.imagenet_words import ImageNetWords, by_order, load_table
from zs3.encoders.open_clip import load_weights, openai_layout
from zs3.encoders.wordnet import definitions, imagenet_classes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def words() -> ImageNetWords:
    encoder = load_encoder(EncoderConfig(), device=CPU)
    assert isinstance(encoder, ImageNetWords)
    return encoder


def test_minilm_equals_the_same_weights_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    folder = str(minilm.package_folder())
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    phrases = ["sheep", "a photo of a Café's sofa, bed", "potted plant " * 9]
    batch = tokenizer(phrases, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    weight = batch["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
    # Measured 2e-7; a wrong layer, mask or token shows at 1e-2 and above.
    assert (minilm.MiniLm().encode(phrases) - expected).abs().max() < 1e-5


def test_phrases_with_parts_that_minilm_does_not_know_are_found_with_their_tokens() -> None:
    unknown = minilm.unknown_phrases(["cat", "café", "🐱 cat", "ꆈꌠ"])
    assert unknown == {"🐱 cat": ["[UNK]", "cat"], "ꆈꌠ": ["[UNK]"]}


def test_the_company_of_a_phrase_does_not_change_its_embedding() -> None:
    model = minilm.MiniLm()
    together = model.encode(["cat", "a very much longer phrase that pads the batch"])[0]
    assert (model.encode(["cat"])[0] - together).abs().max() < 1e-5
    assert model.encode([]).shape == (0, minilm.WIDTH)


def test_the_shipped_table_is_what_minilm_makes_of_the_imagenet_classes() -> None:
    some = [0, 207, 345, 831, 999]
    sentences = [imagenet_classes()[index].sentence for index in some]
    # float16 keeps 3 digits of entries below 0.25.
    assert (minilm.MiniLm().encode(sentences) - load_table()[some]).abs().max() < 2e-4


def test_imagenet_classes_stand_in_the_classifiers_order() -> None:
    categories = pytest.importorskip("torchvision.models._meta")._IMAGENET_CATEGORIES
    ours = imagenet_classes()
    assert len(ours) == len(categories) == 1000
    same = sum(
        any(word.lower() == category.lower() for word in synset.words)
        for synset, category in zip(ours, categories)
    )
    # torchvision renames a few to tell them apart ("crane bird", "maillot tank suit").
    assert same > 960


def test_definitions_ignore_articles_and_case_and_are_empty_for_unknown_phrases() -> None:
    assert definitions("a Sheep") == definitions("sheep") != []
    assert definitions("tvmonitor") == []


@pytest.mark.parametrize(
    ("phrase", "expected"), [("sheep", "ram"), ("sofa", "studio couch"), ("cow", "ox"), ("tv", "television")]
)
def test_a_phrase_stands_for_the_imagenet_classes_of_its_meaning(
    phrase: str, expected: str, words: ImageNetWords
) -> None:
    row = words.encode_text([phrase])[0]
    nearest = [imagenet_classes()[int(index)].words[0] for index in row.topk(3).indices]
    assert expected in nearest


def test_text_rows_are_unit_vectors_and_do_not_depend_on_their_company(words: ImageNetWords) -> None:
    phrases = ["sheep", "a photo of a sheep", "tvmonitor", "quartz crystal"]
    rows = words.encode_text(phrases)
    assert rows.dtype == torch.float32 and rows.shape == (4, words.image_dim)
    assert torch.allclose(rows.norm(dim=-1), torch.ones(4), atol=1e-5)
    # A class at the edge of the kept fifty may change places with its neighbour; its share is below 1e-2.
    assert (words.encode_text(phrases[:1])[0] - rows[0]).abs().max() < 0.15
    assert (words.encode_text(phrases[:1])[0] @ rows[0]) > 0.98


def test_image_rows_are_unit_vectors_and_do_not_depend_on_their_company(words: ImageNetWords) -> None:
    crops = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = words.encode_images(crops)
    assert rows.shape == (3, words.image_dim)
    assert torch.allclose(rows.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(words.encode_images(crops[1:2])[0], rows[1], atol=1e-4)


def test_views_average_to_the_mean_posterior(words: ImageNetWords) -> None:
    posteriors = torch.rand(3, 2, 1000, generator=torch.Generator().manual_seed(0))
    posteriors = posteriors / posteriors.sum(-1, keepdim=True)
    power = words.config.power
    views = torch.nn.functional.normalize(posteriors.pow(power), dim=-1)
    expected = torch.nn.functional.normalize(posteriors.mean(0).pow(power), dim=-1)
    assert torch.allclose(words.average_views(views), expected, atol=1e-5)
    assert torch.allclose(words.average_views(views[:1]), views[0], atol=1e-5)
    shares = torch.tensor([0.5, 0.5, 0.0])
    assert torch.allclose(words.average_views(views, shares), words.average_views(views[:2]), atol=1e-5)


def test_the_classifier_knows_a_cat_and_the_phrase_meets_it(words: ImageNetWords) -> None:
    data = pytest.importorskip("skimage.data")
    cat = torch.from_numpy(data.cat()).permute(2, 0, 1).float()[None] / 127.5 - 1
    crop = torch.nn.functional.interpolate(cat, size=(224, 224), mode="bilinear", antialias=True)
    names = ["dog", "cat", "sofa", "sheep", "train", "bird"]
    scores = words.encode_images(crop) @ words.encode_text(names).T
    assert names[int(scores.argmax())] == "cat"


def test_the_text_side_loads_without_the_heavy_packages() -> None:
    program = (
        "import sys, torch\n"
        "from zs3.encoders import EncoderConfig, load_encoder\n"
        "load_encoder(EncoderConfig(), device=torch.device('cpu')).encode_text(['sheep'])\n"
        "heavy = {'sentence_transformers', 'transformers', 'timm', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_weights_of_another_network_are_refused_by_their_shapes() -> None:
    target = {"a.weight": torch.zeros(2), "b.bias": torch.zeros(3)}
    source = {"x.weight": torch.ones(2), "y.bias": torch.ones(3)}
    assert list(by_order(source, target)) == ["a.weight", "b.bias"]
    with pytest.raises(ValueError, match="1 tensors, the network has 2"):
        by_order({"x.weight": torch.ones(2)}, target)
    with pytest.raises(ValueError, match=r"y.bias \(4,\) stands where the network has b.bias \(3,\)"):
        by_order({"x.weight": torch.ones(2), "y.bias": torch.ones(4)}, target)


def test_clip_of_a_local_path_has_the_shapes_of_its_weights(recorded_clip: Path) -> None:
    encoder = load_encoder(EncoderConfig(kind="open_clip", weights=str(recorded_clip)), device=CPU)
    assert (encoder.image_dim, encoder.image_size_px) == (512, 224)
    assert encoder.logit_scale == pytest.approx(100, rel=1e-5)
    rows = encoder.encode_text(["a cat", "a dog"])
    assert torch.allclose(rows.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert torch.allclose(encoder.average_views(rows[None]), rows)


def test_openai_layout_gives_what_open_clip_builds_with_quick_gelu(recorded_clip: Path) -> None:
    weights = load_weights(str(recorded_clip))
    ours = openai_layout(weights).eval()
    build = open_clip.model.build_model_from_openai_state_dict
    theirs = build(dict(weights), cast_dtype=torch.float32).float()
    tokens = open_clip.tokenize(["a photo of a cat"])
    with torch.inference_mode():
        # Theirs went through float16 weights.
        assert torch.allclose(ours.encode_text(tokens), theirs.encode_text(tokens), atol=2e-2)


def test_weights_that_need_quick_gelu_are_refused_by_an_architecture_without() -> None:
    config = EncoderConfig(kind="open_clip", architecture="ViT-B-16", weights="openai")
    with pytest.raises(ValueError, match=r"quick-GELU.*'ViT-B-16-quickgelu'"):
        load_encoder(config, device=CPU)
    right = EncoderConfig(kind="open_clip", architecture="ViT-B-16-quickgelu", weights="openai")
    assert load_encoder(right, device=CPU).image_dim == 512


@pytest.mark.parametrize(
    ("architecture", "weights", "message"),
    [
        ("", "", "needs weights"),
        ("", "absent.pth", "no weights at"),
        ("ViT-B-17", "openai", "knows no architecture 'ViT-B-17'"),
        ("ViT-B-16", "moon", r"'moon' is neither a file nor a pretrained tag of ViT-B-16 \(tags: openai"),
    ],
)
def test_unknown_models_are_refused_before_anything_is_loaded(
    architecture: str, weights: str, message: str
) -> None:
    config = EncoderConfig(kind="open_clip", architecture=architecture, weights=weights)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_encoder(config, device=CPU)


def test_files_that_are_no_plain_clip_tensors_are_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "jit.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickled.pth")
    for name in ("jit.pt", "pickled.pth"):
        with pytest.raises(ValueError, match="does not load as plain tensors"):
            load_weights(str(tmp_path / name))
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no vision-transformer CLIP"):
        openai_layout(load_weights(str(tmp_path / "other.pth")))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no encoder is called 'clap'"):
        load_encoder(EncoderConfig(kind="clap"), device=CPU)  # type: ignore[arg-type]

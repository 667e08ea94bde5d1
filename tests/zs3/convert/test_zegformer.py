"""A released checkpoint becomes ours whole, or one line says what does not fit."""

import json
import math
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from tests.support.parity import FULL_WEIGHTS, SMALL, TINY, facts, released_state
from tests.zs3.test_tensor_files import Touch
from zs3.checkpoint import load_checkpoint
from zs3.config import NamingSettings, SegmentSettings, TextConfig
from zs3.convert.zegformer import CRITERION, LOGIT_SCALE, convert, inferred_recipe, network_state
from zs3.convert.zegformer_names import PREDICTOR, our_name, released_name
from zs3.encoders import EncoderConfig
from zs3.inference.labeller import load_labeller
from zs3.nets.networks import build_network
from zs3.nets.zegformer import class_logits
from zs3.recipes import recipe
from zs3.segmentation.segmenter import normalise_and_pad, resize
from zs3.vocabulary import load_vocabulary


@pytest.fixture(scope="module")
def small(tiny_recipe):
    """A very small recipe that trains on VOC."""
    return replace(
        tiny_recipe,
        name="small",
        model=replace(tiny_recipe.model, temperature=0.01),
        training=replace(tiny_recipe.training, datasets=(("voc", "VOC2012"),)),
    )


def released_state_dict(made):
    """Random weights of a recipe's network in the published layout."""
    torch.manual_seed(0)
    state = {released_name(name): value for name, value in build_network(made.model).state_dict().items()}
    state[PREDICTOR + "bg_feature"] = state[PREDICTOR + "bg_feature"][None]
    state[LOGIT_SCALE] = torch.tensor([math.log(100)])
    state[CRITERION] = torch.ones(16)
    return state


@pytest.fixture
def given(small, tmp_path):
    """(convert this state, the state): the recipe lies beside it."""
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(small)))

    def run(state, chosen=str(tmp_path / "recipe.json"), *, ema=False, **others):
        torch.save({"model": state, "iteration": 9, **others}, tmp_path / "released.pth")
        return convert(str(tmp_path / "released.pth"), tmp_path / "out", chosen, ema=ema)

    return run, released_state_dict(small), small


def test_every_tensor_keeps_its_values_and_the_seen_classes_are_those_of_the_data_set(given, tmp_path, small):
    run, state, _ = given
    done = run({**state, PREDICTOR + "clip_model.visual.proj": torch.ones(2, 2)})
    assert (done.clip_tensors_left_out, done.seen_classes, done.why) == (1, 15, "")
    checkpoint = load_checkpoint(done.checkpoint)
    assert checkpoint.recipe == small
    assert checkpoint.seen_classes[0] == "aeroplane" and checkpoint.seen_classes[-1] == "person"
    assert len(checkpoint.network().state_dict()) == len(state) - 2 == done.tensors
    for name, value in checkpoint.state.items():
        assert torch.equal(value.flatten(), state[released_name(name)].flatten()), name


def test_a_bare_state_dict_converts_like_a_checkpoint(given, tmp_path):
    run, state, _ = given
    run(state)
    torch.save(state, tmp_path / "bare.pth")
    convert(str(tmp_path / "bare.pth"), tmp_path / "bare", str(tmp_path / "recipe.json"))
    assert load_checkpoint(str(tmp_path / "bare")).digest == load_checkpoint(str(tmp_path / "out")).digest


def same_weights(folder, state):
    """Whether a converted checkpoint has the values of a state dict in the published names."""
    return all(
        torch.equal(value.flatten(), state[released_name(name)].float().flatten())
        for name, value in load_checkpoint(str(folder)).state.items()
    )


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model.module."])
def test_prefixes_of_wrappers_are_left_out(given, tmp_path, prefix):
    run, state, _ = given
    done = run({prefix + name: value for name, value in state.items()})
    assert done.prefix == f"model.{prefix}" and same_weights(tmp_path / "out", state)


@pytest.mark.parametrize("prefix", ["ema.", "ema_", "model_ema.module."])
@pytest.mark.parametrize("ema", [False, True])
def test_an_average_beside_the_weights_is_taken_on_request_and_named_otherwise(given, tmp_path, prefix, ema):
    run, state, _ = given
    average = {name: value / 2 if name != LOGIT_SCALE else value for name, value in state.items()}
    both = {
        **state,
        **{prefix + name: value for name, value in average.items()},
        prefix + "decay": torch.ones(1),
    }
    done = run(both, ema=ema)
    assert same_weights(tmp_path / "out", average if ema else state)
    assert (done.prefix, *done.other_weights) == (
        (f"model.{prefix}", "model.") if ema else ("model.", f"model.{prefix}")
    )


def test_an_average_in_a_place_of_its_own_is_found_and_needs_no_option_if_it_is_alone(given, tmp_path):
    run, state, _ = given
    average = {name: value / 2 if name != LOGIT_SCALE else value for name, value in state.items()}
    done = run(state, ema=True, ema_state={"state": average, "decay": 0.999})
    assert done.prefix == "ema_state.state." and same_weights(tmp_path / "out", average)
    torch.save({"ema_state": average}, tmp_path / "alone.pth")
    convert(str(tmp_path / "alone.pth"), tmp_path / "alone", str(tmp_path / "recipe.json"))
    assert same_weights(tmp_path / "alone", average)


def test_an_average_that_is_not_there_and_two_networks_are_refused_with_their_prefixes(given):
    run, state, _ = given
    with pytest.raises(
        ValueError, match=r"has no exponential moving average, only the weights 'model\.'; leave"
    ):
        run(state, ema=True)
    with pytest.raises(ValueError, match=r"the weights of 2 networks \('model\.', 'teacher\.'\); save"):
        run(state, teacher=dict(state))


def test_weights_of_bfloat16_convert_and_their_precision_is_told(given, tmp_path):
    run, state, small = given
    rounded = {name: value.bfloat16() for name, value in state.items()}
    assert run(rounded).precision == "bfloat16"
    assert same_weights(tmp_path / "out", rounded)
    with pytest.raises(
        ValueError, match=r"logit_scale 4\.5000, but recipe 'small' has model\.temperature 0\.01"
    ):
        network_state({**rounded, LOGIT_SCALE: torch.tensor([-math.log(0.011)]).bfloat16()}, small, "x.pth")


def test_quantised_weights_are_refused_with_their_type(given):
    run, state, _ = given
    with pytest.raises(
        ValueError, match=rf"1 of \d+ tensors are no .* '{PREDICTOR}projection_layer.bias' of torch.int8"
    ):
        run({**state, PREDICTOR + "projection_layer.bias": torch.ones(384, dtype=torch.int8)})


def test_numbers_of_numpy_and_parameters_beside_and_among_the_weights_convert(given, tmp_path):
    run, state, _ = given
    parameters = {name: torch.nn.Parameter(value) for name, value in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(parameters, step=np.int64(9), best=np.float32(0.5), scheduler={"last": np.float64(1)})
    assert same_weights(tmp_path / "out", state)


def test_a_message_of_misfits_names_a_dozen(given):
    run, state, _ = given
    with pytest.raises(ValueError, match=r"\d+ missing \(.* and \d+ more\)") as refusal:
        run(
            {PREDICTOR + "logit_scale": state[LOGIT_SCALE]}
            | {f"backbone.x{i}": torch.ones(1) for i in range(400)}
        )
    assert "400 not expected (backbone.x0, " in str(refusal.value) and "and 388 more" in str(refusal.value)
    assert len(str(refusal.value)) < 2000


def test_every_misfit_is_named_in_the_published_names_and_nothing_is_written(given, tmp_path):
    run, state, _ = given
    state.pop(PREDICTOR + "projection_layer.bias")
    state.pop("backbone.res4.3.conv2.norm.running_var")
    state["sem_seg_head.pixel_decoder.layer_9.weight"] = torch.ones(1)
    state[PREDICTOR + "bg_feature"] = torch.ones(1, 7)
    with pytest.raises(ValueError) as refusal:
        run(state)
    told = str(refusal.value)
    assert (
        "2 missing (backbone.res4.3.conv2.norm.running_var, sem_seg_head.predictor.projection_layer.bias)"
        in told
    )
    assert "1 not expected (sem_seg_head.pixel_decoder.layer_9.weight)" in told
    assert "1 of another shape (sem_seg_head.predictor.bg_feature is 1x7 instead of 1x384)" in told
    assert not (tmp_path / "out").exists()


def test_another_temperature_is_refused_naming_both(given):
    run, state, _ = given
    with pytest.raises(
        ValueError, match=r"logit_scale 2\.9957, but recipe 'small' has model\.temperature 0\.01"
    ):
        run({**state, LOGIT_SCALE: torch.tensor([math.log(20)])})
    with pytest.raises(ValueError, match="logit_scale nan"):
        run({**state, LOGIT_SCALE: torch.tensor([math.nan])})


def test_weights_that_are_not_finite_are_refused_with_tensor_count_and_first_place(given, tmp_path):
    run, state, _ = given
    name = PREDICTOR + "projection_layer.bias"
    state[name] = state[name].clone()
    state[name][[5, 7]] = torch.tensor([math.nan, math.inf])
    with pytest.raises(
        ValueError, match=rf"2 of 384 numbers of tensor '{name}' are not finite, the first at \[5\]"
    ):
        run(state)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_data_set_is_refused(given):
    run, state, _ = given
    with pytest.raises(ValueError, match=r"trained on 156 classes .* 15 seen classes and 20 in all"):
        run({**state, CRITERION: torch.ones(157)})


def test_what_is_no_released_checkpoint_is_refused(given, tmp_path, small):
    run, _, _ = given
    with pytest.raises(
        ValueError, match=r"holds no ZegFormer: none of its 1 tensors begins with sem_seg_head\.pred"
    ):
        run({"backbone.stem.conv1.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="no dictionary of tensors"):
        run([1, 2])


def test_code_in_a_released_checkpoint_is_refused_and_did_not_run(given, tmp_path):
    _, state, _ = given
    torch.save({"model": state, "trainer": Touch(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(
        ValueError, match=r"bad\.pth does not load as plain tensors: it asks for .* is refused"
    ):
        convert(str(tmp_path / "bad.pth"), tmp_path / "out", str(tmp_path / "recipe.json"))
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(given, tmp_path):
    run, state, _ = given
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photograph.jpg").write_text("mine")
    with pytest.raises(ValueError, match="out is there already"):
        run(state)
    assert (tmp_path / "out" / "photograph.jpg").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"name": "x"}', "recipe field 'model'"),
    ],
)
def test_a_bad_recipe_file_is_named(given, tmp_path, content, message):
    run, state, _ = given
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        run(state, str(tmp_path / "other.json"))


def test_recipes_that_name_no_published_data_set_or_no_zegformer_are_refused(given):
    run, state, _ = given
    with pytest.raises(ValueError, match=r"recipe 'mini' trains on \['voc', 'folder', 'folder'\]"):
        run(state, "mini")
    with pytest.raises(ValueError, match="recipe 'maxi' is not known"):
        run(state, "maxi")


@pytest.mark.parametrize(
    ("length", "blocks", "expected"),
    [
        (16, 6, "voc_r50"),
        (16, 23, "voc_r101"),
        (157, 6, "coco_stuff_r50"),
        (157, 23, "coco_stuff_r101"),
        (573, 6, "ade20k_full_r50"),
        (21, 6, "voc_r50"),
        (172, 23, "coco_stuff_r101"),
        (848, 6, "ade20k_full_r50"),
    ],
)
def test_the_recipe_follows_from_the_number_of_classes_and_of_blocks(length, blocks, expected):
    state = {f"backbone.res4.{block}.conv1.weight": torch.ones(1) for block in range(blocks)}
    name, why = inferred_recipe({**state, CRITERION: torch.ones(length)}, "x.pth")
    assert name == expected and str(length) in why and str(blocks) in why


@pytest.mark.parametrize(("length", "blocks"), [(22, 6), (573, 23), (16, 3), (None, 6)])
def test_where_the_recipe_cannot_be_told_it_is_asked_for(length, blocks):
    state = {f"backbone.res4.{block}.conv1.weight": torch.ones(1) for block in range(blocks)}
    if length:
        state[CRITERION] = torch.ones(length)
    with pytest.raises(ValueError, match=rf"{length or 'is missing'}.* and {blocks} blocks .* --recipe"):
        inferred_recipe(state, "x.pth")


@pytest.mark.parametrize("name", ["voc_r50", "coco_stuff_r101"])
def test_names_go_to_the_published_ones_and_back(name):
    ours = list(build_network(recipe(name).model).state_dict())
    released = [released_name(one) for one in ours]
    assert [our_name(one) for one in released] == ours
    if name == "voc_r50":
        published = set(facts("text")["state_dict_keys"])
        # The recorded network has three decoder layers and not six.
        assert {one for one in released if ".layers.3." not in one and ".layers.4." not in one} >= {
            one for one in published if our_name(one)
        }


def published_listing(blocks):
    """Names and shapes of the released state dict without CLIP, in full size."""
    shapes = {"backbone.stem.conv1.weight": (64, 3, 7, 7)}
    norms = {"backbone.stem.conv1": 64}
    for level, count in enumerate(blocks, start=2):
        inner, outer = 64 * 2 ** (level - 2), 256 * 2 ** (level - 2)
        for i in range(count):
            place, given = f"backbone.res{level}.{i}", outer if i else 64 if level == 2 else outer // 2
            convs = {
                "conv1": (inner, given, 1, 1),
                "conv2": (inner, inner, 3, 3),
                "conv3": (outer, inner, 1, 1),
            }
            if i == 0:
                convs["shortcut"] = (outer, given, 1, 1)
            shapes |= {f"{place}.{name}.weight": shape for name, shape in convs.items()}
            norms |= {f"{place}.{name}": shape[0] for name, shape in convs.items()}
    for place, width in norms.items():
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{place}.norm.{name}"] = (width,)
    decoder, predictor = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    for k, width in ((1, 256), (2, 512), (3, 1024)):
        shapes[f"{decoder}.adapter_{k}.weight"] = (256, width, 1, 1)
    for k in (1, 2, 3, 4):
        shapes[f"{decoder}.layer_{k}.weight"] = (256, 2048 if k == 4 else 256, 3, 3)
        for name in (f"layer_{k}", f"adapter_{k}") if k < 4 else (f"layer_{k}",):
            shapes |= {f"{decoder}.{name}.norm.{part}": (256,) for part in ("weight", "bias")}
    shapes |= {f"{decoder}.mask_features.weight": (256, 256, 3, 3), f"{decoder}.mask_features.bias": (256,)}
    shapes |= {
        f"{predictor}.bg_feature": (1, 512),
        f"{predictor}.logit_scale": (1,),
        f"{predictor}.projection_layer.weight": (512, 256),
        f"{predictor}.projection_layer.bias": (512,),
        f"{predictor}.query_embed.weight": (100, 256),
        f"{predictor}.input_proj.weight": (256, 2048, 1, 1),
        f"{predictor}.input_proj.bias": (256,),
    }
    for k in range(3):
        shapes |= {f"{predictor}.mask_embed.layers.{k}.weight": (256, 256)}
        shapes |= {f"{predictor}.mask_embed.layers.{k}.bias": (256,)}
    for layer in range(6):
        place = f"{predictor}.transformer.decoder.layers.{layer}"
        for name in ("self_attn", "multihead_attn"):
            shapes |= {f"{place}.{name}.in_proj_weight": (768, 256), f"{place}.{name}.in_proj_bias": (768,)}
            shapes |= {f"{place}.{name}.out_proj.weight": (256, 256), f"{place}.{name}.out_proj.bias": (256,)}
        shapes |= {f"{place}.linear1.weight": (2048, 256), f"{place}.linear1.bias": (2048,)}
        shapes |= {f"{place}.linear2.weight": (256, 2048), f"{place}.linear2.bias": (256,)}
        shapes |= {f"{place}.norm{k}.{part}": (256,) for k in (1, 2, 3) for part in ("weight", "bias")}
    return shapes | {f"{predictor}.transformer.decoder.norm.{part}": (256,) for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("name", "classes", "blocks"),
    [
        ("coco_stuff_r50", 156, (3, 4, 6, 3)),
        ("voc_r101", 15, (3, 4, 23, 3)),
        ("ade20k_full_r50", 572, (3, 4, 6, 3)),
    ],
)
def test_the_published_listing_in_full_size_is_what_a_recipe_wants(name, classes, blocks):
    state = {key: torch.zeros(()).expand(shape) for key, shape in published_listing(blocks).items()}
    state |= {LOGIT_SCALE: torch.tensor([math.log(100)]), CRITERION: torch.ones(classes + 1)}
    found, _ = inferred_recipe(state, "x.pth")
    assert found == name
    with torch.device("meta"):
        network = build_network(recipe(name).model)
    given = network_state(state, recipe(name), "x.pth")
    assert {key: value.shape for key, value in given.items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }


@pytest.fixture
def recorded_files(recordings, recorded_clip, tmp_path, request):
    """(checkpoint, CLIP): the recorded weights drawn again, or the recorded files themselves."""
    if recordings is SMALL:
        torch.save({"model": released_state("zegformer")}, tmp_path / "released.pth")
        return tmp_path / "released.pth", recorded_clip
    folder = request.getfixturevalue("full_recordings_folder")
    return folder / FULL_WEIGHTS["zegformer"], folder / FULL_WEIGHTS["clip"]


def test_the_recorded_checkpoint_gives_the_recorded_logits_masks_and_labels(
    recordings, recorded_files, tmp_path
):
    checkpoint, clip_file = recorded_files
    clip = EncoderConfig(kind="open_clip", weights=str(clip_file))
    tiny = replace(
        recipe("voc_r50"),
        name="tiny",
        model=TINY,
        query_text=TextConfig(encoder=clip, templates="single", synonyms=False),
        image_text=TextConfig(encoder=clip, templates="imagenet_select_clip", synonyms=False),
        segmenting=SegmentSettings(short_side_px=64, max_side_px=512),
        naming=NamingSettings(calibration=0.1),
    )
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(tiny)))
    convert(str(checkpoint), tmp_path / "model", str(tmp_path / "recipe.json"))
    recording = recordings("network")
    network, picture = load_checkpoint(str(tmp_path / "model")).network(), recording["img3/image"]
    image = normalise_and_pad(resize(picture, tiny.segmenting), TINY.image_mean, TINY.image_std, 32)
    with torch.no_grad():
        output = network(image[None])[-1]
    bank = torch.from_numpy(recording["text/test"])
    # As in nets/test_parity: the published code's own noise is 1e-4 on logits of ±100 and 1e-3 on masks of ±40.
    logits = class_logits(output, bank)[0]
    assert recording.worst("img3/pred_logits", logits) < 1e-3
    assert recording.worst("img3/pred_masks", output.mask_logits_BQhw[0]) < 2e-3
    labels, _ = load_labeller(str(tmp_path / "model"), load_vocabulary("voc")).label([picture])[0]
    # Ids of VOC count from 1; two independent implementations differ in at most two pixels.
    assert int((labels - 1 != recording["img3/argmax"]).sum()) <= 2

"""Class tokens of masks against one mask at a time with attention written out, and the encoder's own embedding."""

import pytest
import torch

from tests.data.composed_parts import encoder_folder
from zs3.encoders import EncoderConfig
from zs3.encoders.masked_tokens import masked_token_embeddings, pooled_token_embeddings
from zs3.encoders.open_clip import OpenClip

MASKS = 5
# float32 through two blocks of width 32 differs by 1e-6 where the sums run in another order; a token that sees one
# patch too many moves values of 0.1 to 1 by percents.
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module", params=["vit", "siglip"])
def encoder(request, tmp_path_factory):
    folder = encoder_folder(request.param, tmp_path_factory.mktemp("encoder") / request.param)
    return OpenClip(EncoderConfig(kind="open_clip", weights=str(folder)), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def visual(encoder):
    return encoder.model.visual


def picture(height, width):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))


def masks(height, width, count=MASKS):
    """Random sets of patches, the last of one patch."""
    inside = torch.rand(count, height // 8, width // 8, generator=torch.Generator().manual_seed(1)) > 0.6
    inside[-1] = False
    inside[-1, 0, 1] = True
    return inside


def attention(block, tokens, seen):
    """(T, C) what each token takes from the tokens that it sees, one token and one head at a time."""
    layer, width = block.attn, tokens.shape[1]
    query, key, value = (tokens @ layer.in_proj_weight.T + layer.in_proj_bias).split(width, dim=1)
    size = width // layer.num_heads
    rows = []
    for index in range(len(tokens)):
        by_head = []
        for start in range(0, width, size):
            part = slice(start, start + size)
            logits = torch.stack([query[index, part] @ key[other, part] for other in seen[index]]) / size**0.5
            by_head.append(logits.softmax(dim=0) @ value[seen[index], part])
        rows.append(torch.cat(by_head))
    return layer.out_proj(torch.stack(rows))


def one_class_token(visual, image, inside):
    """(E,) the embedding of one mask by a second class token that sees itself and the patches of the mask."""
    patches = visual.conv1(image[None])[0].flatten(1).T + visual.positional_embedding[1:]
    first = visual.class_embedding + visual.positional_embedding[0]
    tokens = visual.ln_pre(torch.cat((first[None], patches, first[None])))
    own = len(tokens) - 1
    under = [1 + int(index) for index in inside.flatten().nonzero()[:, 0]]
    seen = [list(range(own)) for _ in range(own)] + [[*under, own]]
    for block in visual.transformer.resblocks:
        tokens = tokens + attention(block, block.ln_1(tokens), seen)
        tokens = tokens + block.mlp(block.ln_2(tokens))
    return visual.ln_post(tokens[own]) @ visual.proj


def one_probe(visual, image, inside):
    """(E,) the embedding of one mask by the attention pooling of a picture that has no other patches."""
    tokens = visual.trunk.forward_features(image[None])
    return visual.trunk.attn_pool(tokens[:, inside.flatten()])[0]


@torch.no_grad()
def test_embeddings_are_those_of_one_mask_at_a_time(visual):
    image, inside = picture(32, 32), masks(32, 32)
    one = one_class_token if hasattr(visual, "class_embedding") else one_probe
    expected = torch.stack([one(visual, image, mask) for mask in inside])
    torch.testing.assert_close(masked_token_embeddings(visual, image, inside), expected, **TOLERANCE)


@torch.no_grad()
def test_a_mask_of_the_whole_picture_has_the_encoders_own_embedding(encoder, visual):
    image = picture(32, 32)
    rows = masked_token_embeddings(visual, image, torch.ones(2, 4, 4, dtype=torch.bool))
    own = encoder.encode_images(image[None])
    torch.testing.assert_close(torch.nn.functional.normalize(rows, dim=1), own.expand(2, -1), **TOLERANCE)


@torch.no_grad()
def test_masks_do_not_see_one_another_and_pictures_may_have_any_shape(visual):
    image, inside = picture(40, 64), masks(40, 64)
    together = masked_token_embeddings(visual, image, inside)
    alone = torch.cat([masked_token_embeddings(visual, image, mask[None]) for mask in inside])
    torch.testing.assert_close(together, alone, **TOLERANCE)
    assert float((together[0] - together[1]).abs().max()) > 1e-3
    assert masked_token_embeddings(visual, image, inside[:0]).shape == (0, together.shape[1])


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["vit"], indirect=True)
def test_pooled_tokens_are_the_mean_of_the_patches_under_each_mask(visual):
    image, inside = picture(32, 32), masks(32, 32)
    (tokens,) = visual.forward_intermediates(
        image[None], indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
    )["image_intermediates"]
    expected = torch.stack([tokens[0, mask.flatten()].mean(dim=0) @ visual.proj for mask in inside])
    torch.testing.assert_close(pooled_token_embeddings(visual, image, inside), expected, **TOLERANCE)

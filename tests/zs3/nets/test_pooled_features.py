"""Segment embeddings that also hold what the backbone saw under the mask."""

from dataclasses import replace

import torch

from zs3.config import Recipe
from zs3.nets.zegformer import PooledFeatures, ZegFormer

# B image, Q query, C channels, D embedding, h w cells of stride 4


def pooled(text_dim: int = 5) -> PooledFeatures:
    torch.manual_seed(0)
    return PooledFeatures((3, 4), text_dim)


def maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 4, 6, generator=generator), torch.randn(2, 4, 2, 3, generator=generator)]


def test_a_mask_on_one_cell_gives_the_features_of_that_cell() -> None:
    module, (fine, coarse) = pooled(), maps()
    masks = torch.full((2, 1, 16, 24), -80.0)
    masks[:, :, 8:12, 12:16] = 80.0  # cell (2, 3) of the finer map, within cell (1, 1) of the coarser
    cells = (module.norms[0](fine[:, :, 2, 3]), module.norms[1](coarse[:, :, 1, 1]))
    # 1e-5: float32 sums over 384 cells; a neighbouring cell would differ by about 1.
    torch.testing.assert_close(
        module(masks, [fine, coarse])[:, 0], module.projection(torch.cat(cells, dim=1)), atol=1e-5, rtol=0
    )


def test_an_empty_mask_gives_finite_numbers() -> None:
    assert pooled()(torch.full((2, 1, 16, 24), -500.0), maps()).isfinite().all()


def test_naming_does_not_pull_at_the_masks() -> None:
    masks = torch.randn(2, 3, 16, 24, requires_grad=True)
    features = [part.requires_grad_() for part in maps()]
    pooled()(masks, features).sum().backward()
    assert masks.grad is None and all(part.grad is not None for part in features)


def test_permuting_queries_permutes_embeddings() -> None:
    masks, order = torch.randn(2, 3, 16, 24), torch.tensor([2, 0, 1])
    module = pooled()
    torch.testing.assert_close(module(masks, maps())[:, order], module(masks[:, order], maps()))


def test_the_published_network_has_no_such_weights_and_keeps_its_embeddings(tiny_recipe: Recipe) -> None:
    torch.manual_seed(0)
    plain = ZegFormer(tiny_recipe.model).eval()
    more = ZegFormer(replace(tiny_recipe.model, segment_features="query_and_pooled")).eval()
    added = set(more.state_dict()) - set(plain.state_dict())
    assert added and all(name.startswith("pooled.") for name in added)
    more.load_state_dict({**more.state_dict(), **plain.state_dict()})
    picture = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        theirs, ours = plain(picture)[-1], more(picture)[-1]
        assert not torch.allclose(theirs.embeddings_BQD, ours.embeddings_BQD)
        torch.testing.assert_close(theirs.mask_logits_BQhw, ours.mask_logits_BQhw)
        assert more.pooled is not None
        more.pooled.projection.weight.zero_()
        torch.testing.assert_close(theirs.embeddings_BQD, more(picture)[-1].embeddings_BQD)

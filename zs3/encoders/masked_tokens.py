"""One embedding for each mask from one pass of a vision transformer of CLIP or SigLIP, without crops.

A class token for each mask joins the tokens of the picture. It sees itself and the patches under its mask; no other
token sees it, so the picture's tokens are those of CLIP alone, and a mask of the whole picture has CLIP's own embedding
of it. These are the mask class tokens of MaskCLIP (Ding et al., Open-Vocabulary Universal Image Segmentation with
MaskCLIP, ICML 2023) and of MasQCLIP (Xu et al., ICCV 2023), without what the two train. A SigLIP has no class token:
its attention pooling looks at the patches under the mask.
"""

# K mask, N patch, T token, C channels, E embedding, M head, H W pixels, g grid of patches
from __future__ import annotations

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from torch.nn import functional as F


def has_class_token(visual: Any) -> bool:
    """Whether an image tower of open_clip is a transformer whose class token is its embedding."""
    return hasattr(visual, "class_embedding") and visual.attn_pool is None and visual.pool_type == "tok"


def has_attention_pool(visual: Any) -> bool:
    """Whether it is a transformer of timm whose attention pooling, by one query, is its embedding, as SigLIP's."""
    pool = getattr(getattr(visual, "trunk", None), "attn_pool", None)
    return (
        pool is not None
        and pool.pos_embed is None
        and pool.latent_len == 1
        and hasattr(visual.trunk, "blocks")
    )


def patch_size(visual: Any) -> tuple[int, int]:
    """Height and width of a patch, in pixels."""
    return (visual if hasattr(visual, "class_embedding") else visual.trunk.patch_embed).patch_size


def masked_token_embeddings(visual: Any, image_3HW: Tensor, inside_Kgg: Tensor) -> Tensor:
    """(K, E) embeddings of masks, not normalised.

    Positions are resampled to the grid of the picture.

    Args:
        visual: a tower for which `has_class_token` or `has_attention_pool` holds.
        image_3HW: normalised; its sides are multiples of `patch_size`.
        inside_Kgg: (K, H / patch, W / patch) bool, the patches under each mask; none is empty.
    """
    by_token = has_class_token(visual)
    return (_by_class_tokens if by_token else _by_attention_pool)(visual, image_3HW[None], inside_Kgg)


def pooled_token_embeddings(visual: Any, image_3HW: Tensor, inside_Kgg: Tensor) -> Tensor:
    """As `masked_token_embeddings` for a tower with a class token: the mean of its last tokens under each mask."""
    none_Kgg = inside_Kgg[:0]
    tokens_NC = _tokens(visual, image_3HW[None], none_Kgg)[0, 1:]
    shares_KN = inside_Kgg.flatten(1).to(tokens_NC.dtype)
    pooled_KC = shares_KN @ visual.ln_post(tokens_NC) / shares_KN.sum(dim=1, keepdim=True)
    return pooled_KC if visual.proj is None else pooled_KC @ visual.proj


def _by_class_tokens(visual: Any, image_13HW: Tensor, inside_Kgg: Tensor) -> Tensor:
    tokens_1TC = _tokens(visual, image_13HW, inside_Kgg)
    rows_KC = visual.ln_post(tokens_1TC[0, tokens_1TC.shape[1] - len(inside_Kgg) :])
    return rows_KC if visual.proj is None else rows_KC @ visual.proj


def _tokens(visual: Any, image_13HW: Tensor, inside_Kgg: Tensor) -> Tensor:
    """(1, 1 + N + K, C) tokens of the last block: the class token, the patches, and a class token for each mask."""
    patches_1Cgg = visual.conv1(image_13HW)
    grid = [patches_1Cgg.shape[2], patches_1Cgg.shape[3]]
    positions_1TC = resample_abs_pos_embed(visual.positional_embedding[None], grid, list(visual.grid_size))
    patches_1NC = patches_1Cgg.flatten(2).transpose(1, 2) + positions_1TC[:, 1:]
    class_11C = visual.class_embedding[None, None] + positions_1TC[:, :1]
    tokens_1TC = torch.cat((class_11C, patches_1NC, class_11C.expand(-1, len(inside_Kgg), -1)), dim=1)
    return visual.transformer(visual.ln_pre(tokens_1TC), attn_mask=_seen(inside_Kgg.flatten(1)))


def _seen(inside_KN: Tensor) -> Tensor:
    """(T, T) of 0 where a token sees another one, else minus infinity."""
    masks, patches = inside_KN.shape
    own = torch.eye(masks, dtype=torch.bool, device=inside_KN.device)
    by_picture = inside_KN.new_ones(1 + patches, 1 + patches), inside_KN.new_zeros(1 + patches, masks)
    by_masks = inside_KN.new_zeros(masks, 1), inside_KN, own
    seen_TT = torch.cat((torch.cat(by_picture, dim=1), torch.cat(by_masks, dim=1)))
    return torch.zeros(seen_TT.shape, device=inside_KN.device).masked_fill(~seen_TT, -torch.inf)


def _by_attention_pool(visual: Any, image_13HW: Tensor, inside_Kgg: Tensor) -> Tensor:
    trunk = visual.trunk
    pool, patches_1Cgg = trunk.attn_pool, trunk.patch_embed.proj(image_13HW)
    grid = [patches_1Cgg.shape[2], patches_1Cgg.shape[3]]
    positions_1NC = resample_abs_pos_embed(
        trunk.pos_embed, grid, list(trunk.patch_embed.grid_size), num_prefix_tokens=0
    )
    tokens_1NC = trunk.norm_pre(patches_1Cgg.flatten(2).transpose(1, 2) + positions_1NC)
    tokens_1NC = trunk.norm(trunk.blocks(tokens_1NC))
    shape = (1, -1, pool.num_heads, pool.head_dim)
    query_1M1C = pool.q_norm(pool.q(pool.latent).view(shape).transpose(1, 2))
    keys, values_1MNC = (part.view(shape).transpose(1, 2) for part in pool.kv(tokens_1NC).chunk(2, dim=2))
    queries_1MKC = query_1M1C.expand(-1, -1, len(inside_Kgg), -1)
    pooled = F.scaled_dot_product_attention(
        queries_1MKC, pool.k_norm(keys), values_1MNC, attn_mask=inside_Kgg.flatten(1)
    )
    rows_1KC = pool.proj(pooled.transpose(1, 2).flatten(2))
    rows_1KC = rows_1KC if pool.mlp is None else rows_1KC + pool.mlp(pool.norm(rows_1KC))
    return visual.head(trunk.head(trunk.fc_norm(rows_1KC[0])))

"""Fakes of `segment` and `name`: pictures of two colours, grouped by colour and named by it.

They are made inside functions, so that they travel to workers by value.
"""

from pipelines.labelling.label import ModelInfo
from pipelines.labelling.name import SegmentClassifierFactory
from pipelines.labelling.segment import SegmentExporterFactory


def grouping(weights="w", failing=(0, 250, 0)):
    """A model with one segment per colour; it fails on pictures with a corner of the colour `failing`."""

    def describe(checkpoint, store):
        return {"checkpoint": weights, "segmenting": "s", "zs3": "0", "store": store}

    def load(checkpoint, store, device):
        import torch

        from zs3.config import digest_of
        from zs3.segmentation.segments import Segments

        class Colours:
            digest = digest_of(describe(checkpoint, store))

            def segment(self, pictures):
                if any(tuple(picture[0, 0]) == failing for picture in pictures):
                    raise RuntimeError("green makes it fail")
                return [(self.one(torch.from_numpy(picture.copy())), 0.25) for picture in pictures]

            def segment_with_masks(self, picture, given):
                """Each mask is what most of its pixels are: red or blue."""
                picture, masks = torch.from_numpy(picture.copy()), torch.from_numpy(given)
                shares = [picture[mask > 0][:, [0, 2]].float().sum(dim=0) for mask in masks]
                colours = torch.stack(shares).argmax(dim=1) if shares else torch.zeros(0, dtype=torch.int64)
                size = tuple(picture.shape[:2])
                segments = Segments(
                    mask_logits_Khw=masks,
                    query_embeddings_KD=torch.eye(2)[colours],
                    image_embeddings_KE=torch.zeros(len(masks), 0),
                    no_object_logits_K=torch.zeros(len(masks)),
                    padded_hw=size,
                    resized_hw=size,
                    height=size[0],
                    width=size[1],
                )
                return segments, 0.25

            def one(self, picture):
                cells = picture[::4, ::4].permute(2, 0, 1).float()
                return Segments(
                    mask_logits_Khw=(cells[[0, 2]] - 127) / 20,
                    query_embeddings_KD=torch.eye(2),
                    image_embeddings_KE=torch.zeros(2, 0),
                    no_object_logits_K=torch.zeros(2),
                    padded_hw=(cells.shape[1] * 4, cells.shape[2] * 4),
                    resized_hw=tuple(picture.shape[:2]),
                    height=picture.shape[0],
                    width=picture.shape[1],
                )

        return Colours()

    return SegmentExporterFactory(describe=describe, load=load)


def naming(broken=False):
    """A model that calls the first segment 1 and the second one 2, or fails on all."""

    def describe(checkpoint, vocabulary, changes, segments):
        from zs3.config import digest_of

        parts = {
            "checkpoint": segments["checkpoint"],
            "naming": str(dict(changes)),
            "vocabulary": vocabulary.digest,
        }
        return ModelInfo(digest=digest_of(parts), provenance=parts, seen={1: True, 2: False})

    def load(checkpoint, vocabulary, changes, *, allow_confusable=False):
        import torch

        from zs3.classification.semantic_map import semantic_map
        from zs3.config import NamingSettings

        class Names:
            seen = {1: True, 2: False}  # noqa: RUF012

            def unread_names(self):
                return []

            def confusable(self, *, allow_identical):
                return []

            def name(self, segments):
                if broken:
                    raise RuntimeError("no name for this")
                index, best = semantic_map(
                    segments,
                    segments.query_embeddings_KD,
                    torch.tensor([True, False]),
                    NamingSettings(**changes),
                )
                ids = index.numpy().astype("int32") + 1
                return ids, {c: float(best[index == c - 1].mean()) for c in set(ids.flatten().tolist())}

        return Names()

    return SegmentClassifierFactory(describe=describe, load=load)

"""A small data set with stored segments, on which naming settings can be tuned."""

import json

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pipelines.labelling.name import load_classifier
from pipelines.labelling.segment import SegmentRequest, prepare_segment
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.support.listings import list_images
from zs3.checkpoint import save_checkpoint
from zs3.images.codec import encode_label_png
from zs3.nets.zegformer import ZegFormer
from zs3.segmentation.segments import Segments
from zs3.segmentation.table import segments_row
from zs3.tables import SEGMENTS
from zs3.vocabulary import load_vocabulary

CLASSES = [
    {"id": 0, "name": "ground", "role": "background"},
    {"id": 1, "name": "dog", "role": "seen"},
    {"id": 2, "name": "sheep", "role": "unseen"},
    {"id": 3, "name": "grass", "role": "seen"},
    {"id": 4, "name": "sofa", "role": "unseen"},
]


def write_farm(here, recipe):
    """A data set of six pictures, a checkpoint that was not trained, and segments of all pictures."""
    here.mkdir()
    torch.manual_seed(1)
    save_checkpoint(here / "model", recipe, ZegFormer(recipe.model), ["dog", "grass"])
    draw = np.random.default_rng(2)
    for folder in ("images", "masks"):
        (here / folder).mkdir()
    for index, size in enumerate(((40, 70), (60, 61), (33, 33), (48, 40), (40, 44), (36, 52))):
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            here / "images" / f"{index}.png"
        )
        truth = draw.choice([0, 1, 2, 3, 4, 255], (3, 4)).repeat(30, 0).repeat(20, 1)[: size[0], : size[1]]
        (here / "masks" / f"{index}.png").write_bytes(encode_label_png(truth))
    (here / "classes.json").write_text(json.dumps({"name": "farm", "classes": CLASSES}))
    splits = {"train": ["0", "1", "2", "3"], "val": ["4", "5"], "more": ["3", "4", "gone"]}
    (here / "splits.json").write_text(json.dumps(splits))
    store_segments(here, "kept")
    return here


def store_segments(here, out):
    """A segments table in two files: smooth masks, and embeddings near those of one class and of another one."""
    request = SegmentRequest(
        images=str(here / "images"), checkpoint=str(here / "model"), out=str(here / out), store="lossless"
    )
    prepared = prepare_segment(request)
    bank = load_classifier(
        request.checkpoint, load_vocabulary(str(here / "classes.json")), {}
    ).query_bank.embeddings
    draw, rows = torch.Generator().manual_seed(3), []
    for image_id, uri in list_images(request.images):
        width, height = Image.open(uri).size
        one, two = (torch.from_numpy(bank)[torch.randint(0, 4, (6,), generator=draw)] for _ in range(2))
        mixed = one + 0.8 * torch.rand(6, 1, generator=draw) * two
        segments = Segments(
            mask_logits_Khw=4 * torch.randn(6, 4, 4, generator=draw),
            query_embeddings_KD=mixed / mixed.norm(dim=1, keepdim=True),
            image_embeddings_KE=torch.zeros(6, 0),
            no_object_logits_K=4 * torch.randn(6, generator=draw),
            padded_hw=(64, 96), resized_hw=(64, 90), height=height, width=width,
        )  # fmt: skip
        rows.append(segments_row(image_id, uri, segments, 0.0, prepared.work.target.digest, store="lossless"))
    uri = prepared.work.target.uris["segments"]
    table = open_table(uri, SEGMENTS, prepared.work.target.provenance)
    parts = [
        write_data_file(uri, pa.Table.from_pylist(part, schema=SEGMENTS)) for part in (rows[:4], rows[4:])
    ]
    publish(table, SEGMENTS, parts, run=prepared.work.target.digest, written_ms=0)

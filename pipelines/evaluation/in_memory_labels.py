"""Labels that are scored while they are made, described as a label table would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.labelling.label import ModelInfo
from pipelines.tables.label_table import Labels
from zs3.vocabulary import Vocabulary


def in_memory_labels(description: ModelInfo, vocabulary: Vocabulary, made_of: Mapping[str, Any]) -> Labels:
    """What a table of a labeller's labels would say of itself, where they are scored without being written.

    Args:
        description: of the labeller.
        vocabulary: that it labels with.
        made_of: further provenance, such as where the checkpoint lies.
    """
    return Labels(
        uri=None,
        version=None,
        files=(),
        rows=0,
        runs=(description.digest,),
        seen={entry.name: description.seen[entry.id] for entry in vocabulary.candidates},
        ids={entry.name: entry.id for entry in vocabulary.candidates},
        vocabulary=vocabulary,
        provenance={"run": dict(description.provenance), "digest": description.digest, **made_of},
    )

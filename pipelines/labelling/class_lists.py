"""Class lists are checked where their names are embedded: once, in the process that starts a run."""

from __future__ import annotations

import logging
from typing import Protocol

from zs3.text.confusable import ClosePair, confusable_warnings

logger = logging.getLogger(__name__)


class ClassNames(Protocol):
    """Embedded class names, as `zs3.classification.classifier.SegmentClassifier` holds them; sent to other
    processes."""

    def confusable(self) -> list[ClosePair]:
        """The pairs of classes that are hard to tell apart, nearest first.

        Raises:
            ValueError: two classes cannot be told apart at all.
        """


def warn_of_confusable(names: ClassNames) -> list[ClosePair]:
    """Warn of the classes that are hard to tell apart, and return all pairs of them.

    Raises:
        ValueError: two classes cannot be told apart at all.
    """
    pairs = names.confusable()
    for line in confusable_warnings(pairs):
        logger.warning("zs3: warning: %s", line)
    return pairs

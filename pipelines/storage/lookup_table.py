"""Looking up a row in a sorted Arrow table in Ray's object store: a worker maps the table and reads a few pages."""

from __future__ import annotations

import bisect
from typing import Any

import pyarrow as pa


def row_of(table: pa.Table, image_id: str) -> dict[str, Any] | None:
    """The row of an image, or None if there is none.

    Args:
        table: sorted by its column `image_id`.
    """
    ids: Any = table["image_id"]
    row = bisect.bisect_left(range(table.num_rows), image_id, key=lambda index: ids[index].as_py())
    if row == table.num_rows or ids[row].as_py() != image_id:
        return None
    return {name: table[name][row].as_py() for name in table.column_names}

"""The request that a run was made with, read from its tables, to be made again for the images that failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from deltalake import DeltaTable

from pipelines.labelling.label_plan import LabelRequest
from pipelines.labelling.name_plan import NameRequest
from pipelines.labelling.segment_plan import SegmentRequest
from pipelines.runs.resume import rows_of_images
from pipelines.runs.status import TableStatus, refuse_other_version, status
from pipelines.tables.delta_reader import existing_table, provenance_of, table_uri

Request = LabelRequest | SegmentRequest | NameRequest

REQUESTS: Mapping[str, type[LabelRequest] | type[SegmentRequest] | type[NameRequest]] = {
    "label": LabelRequest,
    "segment": SegmentRequest,
    "name": NameRequest,
}
"""Verb → its request."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What there is to try again."""

    failed: int
    """Images that have a row of failures."""
    done: int
    """Images with results."""
    verb: str = ""
    """Whose request it is; empty where nothing failed."""
    request: Request | None = None
    """None where nothing failed."""


def plan_retry(out: str) -> Retry:
    """What to try again of the run whose tables lie below `out`; reads, writes nothing.

    The request is the one that the tables were started with. Its limit holds if it still did in the last run, so that
    a trial of some images does not hide the failures of all.

    Args:
        out: the --out of the run.

    Raises:
        FileNotFoundError: no table is there.
        ValueError: the tables do not say what was asked for, or it is nothing that this version of zs3 can do.
    """
    tables = status(out)
    failures = existing_table(table_uri(out, "failures"))
    failed = failed_images(failures)
    if failures is None or not failed:
        return Retry(failed=0, done=sum(table.done for table in tables))
    held = provenance_of(failures)
    of = next((table for table in tables if table.digest == held.get("digest")), tables[0])
    verb, request = _request(failures, held, out, of)
    return Retry(failed=failed, done=of.done, verb=verb, request=request)


def failed_images(failures: DeltaTable | None) -> int:
    """Images that have a row of `failures`.

    Raises:
        ValueError: it is no such table of this version of zs3.
    """
    if failures is not None:
        refuse_other_version(failures, "failures")
    return sum(batch.num_rows for batch in rows_of_images(failures))


def _request(failures: DeltaTable, held: Mapping[str, Any], out: str, of: TableStatus) -> tuple[str, Request]:
    """The verb and the request that a table keeps, for the images that failed."""
    asked = dict(held.get("asked") or {})
    verb = str(asked.pop("verb", ""))
    uri = failures.table_uri.removeprefix("file://").rstrip("/")
    by_hand = "give the command that made it once more, with --retry-failures"
    if not verb:
        raise ValueError(f"{uri} does not say what was asked for; {by_hand}")
    if verb not in REQUESTS:
        raise ValueError(f"{uri} was asked for by {verb!r}; expected {', '.join(REQUESTS)}; {by_hand}")
    if asked.get("limit") is not None and asked["limit"] != of.listed:
        del asked["limit"]
    try:
        return verb, REQUESTS[verb](**{**asked, "out": out, "retry_failures": True})
    except TypeError as error:
        raise ValueError(f"{uri} keeps a request of another version of zs3 ({error}); {by_hand}") from error

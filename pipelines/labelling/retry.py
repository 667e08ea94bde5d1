"""The request that a run was made with, read from its tables, to be made again for the images that failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from deltalake import DeltaTable

from pipelines.labelling.label import LabelRequest
from pipelines.labelling.name import NameRequest
from pipelines.labelling.segment import SegmentRequest
from pipelines.runs.resume import rows_of_images
from pipelines.runs.status import TableStatus, refuse_other_version, status
from pipelines.tables.delta_reader import existing_table, provenance_of, table_folder, table_uri
from zs3.wording import REDACTED

Request = LabelRequest | SegmentRequest | NameRequest

REQUESTS: Mapping[str, type[LabelRequest] | type[SegmentRequest] | type[NameRequest]] = {
    "label": LabelRequest,
    "segment": SegmentRequest,
    "name": NameRequest,
}
"""Command → its request."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRetry:
    """What there is to try again."""

    failed: int
    """Images that have a row of failures."""
    done: int
    """Images with results."""
    command: str = ""
    """The command of the request; empty where nothing failed."""
    request: Request | None = None
    """None where nothing failed."""


def prepare_retry(out: str) -> PreparedRetry:
    """What to try again of the run whose tables lie below `out`; reads, writes nothing.

    The request is the one that the tables were started with. Its limit is kept only if the last run had the same one:
    otherwise a first run on a few images would hide the failures of all others.

    Raises:
        FileNotFoundError: no table is there.
        ValueError: the tables do not store a request, or not one that this version of zs3 can carry out.
    """
    tables = status(out)
    failures = existing_table(table_uri(out, "failures"))
    failed = failed_images(failures)
    if failures is None or not failed:
        return PreparedRetry(failed=0, done=sum(table.done for table in tables))
    digest = provenance_of(failures).get("digest")
    results = next((table for table in tables if table.digest == digest), tables[0])
    command, request = _stored_request(failures, out, results)
    return PreparedRetry(failed=failed, done=results.done, command=command, request=request)


def failed_images(failures: DeltaTable | None) -> int:
    """Number of images that have a row of `failures`."""
    if failures is not None:
        refuse_other_version(failures, "failures")
    return sum(batch.num_rows for batch in rows_of_images(failures))


def _stored_request(failures: DeltaTable, out: str, results: TableStatus) -> tuple[str, Request]:
    """The command and the request that a table stores, changed to process the images that failed."""
    stored: dict[str, Any] = dict(provenance_of(failures).get("asked") or {})
    command = str(stored.pop("verb", ""))
    uri = table_folder(failures)
    by_hand = "give the command that made it once more, with --retry-failures"
    if not command:
        raise ValueError(f"{uri} does not say what was asked for; {by_hand}")
    if command not in REQUESTS:
        raise ValueError(f"{uri} was asked for by {command!r}; expected {', '.join(REQUESTS)}; {by_hand}")
    if any(REDACTED in value for value in stored.values() if isinstance(value, str)):
        raise ValueError(f"{uri} keeps the request without the secrets that it was given; {by_hand}")
    if stored.get("limit") is not None and stored["limit"] != results.listed:
        del stored["limit"]
    try:
        return command, REQUESTS[command](**{**stored, "out": out, "retry_failures": True})
    except TypeError as error:
        raise ValueError(f"{uri} keeps a request of another version of zs3 ({error}); {by_hand}") from error

"""Reports of earlier evaluations as input: `report.json`, and the table `scores` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltalake import DeltaTable

from pipelines.evaluation.outputs import REPORT_VERSION
from pipelines.storage.objects import read_bytes
from pipelines.tables.delta_reader import data_files, existing_table, provenance_of, table_uri
from zs3.files import parsed_json
from zs3.metrics.protocols import Protocol, differences
from zs3.tables import SCORES
from zs3.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedRun:
    """One evaluation, opened."""

    source: str
    """As the user wrote it."""
    report: Mapping[str, Any]
    """The content of `report.json`."""
    vocabulary: Vocabulary
    """Of the data set."""
    protocol: Protocol
    scores: DeltaTable
    """The table `scores`."""


def open_run(source: str) -> EvaluatedRun:
    """The evaluation whose --out, or whose report.json, is `source`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no report, or one of another version of zs3.
    """
    report = read_report(source)
    folder = _folder(source)
    uri = table_uri(folder, "scores")
    table = existing_table(uri)
    if table is None:
        raise FileNotFoundError(
            f"no table {uri} beside the report; keep `scores` with report.json, or evaluate again"
        )
    origin = provenance_of(table)
    expected = (SCORES.metadata or {})[b"zs3.version"].decode()
    if origin.get("zs3.version") != expected:
        raise ValueError(
            f"{uri} is a scores table of version {origin.get('zs3.version', 1)}, expected {expected}; "
            "run zs3 evaluate again"
        )
    if not data_files(table):
        raise ValueError(f"{uri} has no rows; run zs3 evaluate again")
    differing = differences(report["protocol"], origin["protocol"])
    if differing:
        raise ValueError(
            f"{source} and its table scores are of two evaluations ({differing[0]}); evaluate again"
        )
    return EvaluatedRun(
        source=source,
        report=report,
        vocabulary=Vocabulary.from_json(origin["vocabulary"]),
        protocol=Protocol.from_json(origin["protocol"]),
        scores=table,
    )


def read_report(source: str) -> dict[str, Any]:
    """The content of `report.json` of an evaluation.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no report, or one of another version.
    """
    uri = table_uri(_folder(source), "report.json")
    try:
        data = read_bytes(uri)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no report at {uri}; give the --out of a `zs3 evaluate` run") from error
    content = parsed_json(data, uri, "evaluate again")
    if not isinstance(content, dict) or not {"harmonic", "protocol", "provenance"} <= content.keys():
        raise ValueError(f"{uri} is no report of zs3; give the --out of a `zs3 evaluate` run")
    if content.get("version") != REPORT_VERSION:
        raise ValueError(
            f"{uri} is a report of version {content.get('version', 1)}, expected {REPORT_VERSION}; "
            "run zs3 evaluate again with this zs3"
        )
    return content


def _folder(source: str) -> str:
    """The folder of report and table."""
    return source.removesuffix("report.json").rstrip("/") or "." if source.endswith("report.json") else source

"""A table of segments: where it lies, and the graph that gives its rows to the actors of name, tune and evaluate."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import DeltaTable

from pipelines.execution import DECODE_CPUS, RESERVED_CPUS, ActorSettings, actor_options, actor_plan
from pipelines.ray_session import cluster_nodes, configure_ray_data
from pipelines.runs.rows import BOOKKEEPING
from pipelines.tables.delta_reader import existing_table, parquet_file, provenance_of, table_uri
from zs3.segmentation.table import NEEDED
from zs3.tables import SEGMENTS

if TYPE_CHECKING:
    from ray.data import Dataset

Wanted = Mapping[str, Mapping[str, Any]] | Container[str]
"""Ids of the images to read; a mapping also holds the bookkeeping of each (`rows.BOOKKEEPING`)."""

ROWS_PER_BATCH = 16
"""Rows of segments that a task reads and sends on together."""


def stored_segments(source: str) -> tuple[str, DeltaTable]:
    """The uri of a segments table and the table: the one at `source`, or at its subfolder `segments`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another table.
    """
    itself = table_uri(source, "").rstrip("/")
    for uri in (table_uri(source, "segments"), itself):
        table = existing_table(uri)
        if table is None:
            continue
        present = {column.name for column in table.schema().fields}
        missing = [name for name in SEGMENTS.names if name not in present]
        if missing or not provenance_of(table).get("run"):
            reason = f"it has no column {missing[0]!r}" if missing else "it does not say how it was made"
            raise ValueError(f"{uri} is no segments table of this version of zs3: {reason}; check --segments")
        return uri, table
    raise FileNotFoundError(
        f"no segments table at {itself} or {itself}/segments; give the --out of a `zs3 segment` run"
    )


def segments_graph(
    files: Sequence[str],
    wanted: Wanted,
    actor: type,
    arguments: Mapping[str, Any],
    execution: ActorSettings,
) -> Dataset:
    """The lazy dataset of what an actor class returns for stored segments, batch by batch.

    Args:
        files: of the segments table.
        wanted: the images to read.
        actor: called with tables as `read_segments` gives them.
        arguments: of its constructor, besides `threads`.
    """
    import ray

    configure_ray_data()
    nodes = cluster_nodes()
    actors = actor_plan(one_actor_per_core(execution, nodes), nodes)
    return (
        ray.data.from_arrow([pa.table({"file": [file]}) for file in files])
        .map_batches(
            functools.partial(read_segments, wanted=wanted),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            max_retries=-1,
        )
        .map_batches(
            actor,
            batch_size=execution.batch_size,
            batch_format="pyarrow",
            **actor_options(actors, execution, max_useful=len(files)),  # one task reads one file
            fn_constructor_kwargs={**arguments, "threads": actors.threads or 1},
            max_task_retries=-1,
        )
    )


def one_actor_per_core(execution: ActorSettings, nodes: Sequence[Mapping[str, float]]) -> ActorSettings:
    """The execution with defaults for naming: one actor of one thread per CPU, with room for tasks, and no GPU."""
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    return replace(
        execution,
        num_actors=execution.num_actors or max(1, int(cpus - RESERVED_CPUS)),
        cpus_per_actor=execution.cpus_per_actor or min(1.0, max(0.5, cpus - RESERVED_CPUS)),
        gpus_per_actor=0.0,
    )


def read_segments(files: pa.Table, *, wanted: Wanted) -> Iterator[pa.Table]:
    """The wanted rows of Parquet files of segments, some at a time, with the columns that naming needs.

    Args:
        files: a column `file`.
        wanted: the images to read; their bookkeeping, where there is any, becomes columns.
    """
    columns = ["image_id", "uri", "etag", *NEEDED]
    for file in files["file"].to_pylist():
        with parquet_file(file) as parquet:
            ids = parquet.read(columns=["image_id"])["image_id"].to_pylist()
            if not any(image_id in wanted for image_id in ids):
                continue
            for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=columns):
                # Row by row: Arrow cannot filter the string views of files that a Delta delete has rewritten.
                table = pa.Table.from_batches([batch])
                ids = table["image_id"].to_pylist()
                rows = [table.slice(index, 1) for index, image_id in enumerate(ids) if image_id in wanted]
                if rows:
                    yield _with_bookkeeping(pa.concat_tables(rows), wanted)


def _with_bookkeeping(rows: pa.Table, wanted: Wanted) -> pa.Table:
    """The rows with the bookkeeping of their images, where there is any."""
    if isinstance(wanted, Mapping):
        entries = [wanted[image_id] for image_id in rows["image_id"].to_pylist()]
        for name in BOOKKEEPING.names[1:]:
            column = pa.array([entry[name] for entry in entries], BOOKKEEPING.field(name).type)
            rows = rows.append_column(name, column)
    return rows

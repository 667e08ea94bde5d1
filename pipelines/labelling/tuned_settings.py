"""Naming settings that `zs3 tune` wrote, as `zs3 name --settings` and `zs3 evaluate --settings` read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.storage.objects import read_bytes
from pipelines.tables.delta_reader import existing_table, provenance_of, table_uri
from zs3.files import parsed_json
from zs3.tuning.settings_file import Tuned


def tuned_settings(settings: str | None, naming: Mapping[str, Any]) -> Tuned | None:
    """The settings of a tuning run; None where `settings` is None.

    Args:
        settings: the --out of the tuning run, or its tune.json.
        naming: settings given one by one; not allowed together with a tuning run.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it holds no tuned settings, or `naming` is given too.
    """
    if settings is None:
        return None
    if naming:
        raise ValueError(
            f"--settings and --naming.{min(naming)} are both given; labels are of tuned settings, or of others"
        )
    uri = settings if settings.endswith(".json") else table_uri(settings, "tune.json")
    try:
        data = read_bytes(uri)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no tuned settings at {uri}; give the --out of a `zs3 tune` run") from error
    return Tuned.from_json(parsed_json(data, uri, "tune again"), uri)


def refuse_other_weights(tuned: Tuned, settings: str | None, checkpoint_digest: str | None) -> None:
    """Refuse settings that were tuned for other weights than those that made the segments."""
    if tuned.checkpoint != checkpoint_digest:
        raise ValueError(
            f"{settings} was tuned for the checkpoint {tuned.checkpoint[:12]}, and the segments are of "
            f"{str(checkpoint_digest)[:12]}; tune again with these segments"
        )


def refuse_other_tuning(uri: str, provenance: Mapping[str, Any]) -> None:
    """Refuse a label table whose settings were tuned elsewhere: equal labels may come from two tunings, or from none.

    Args:
        uri: of the label table.
        provenance: what the run would record.
    """
    table = existing_table(uri)
    stored = provenance_of(table) if table is not None else {}
    if stored.get("run") != provenance["run"]:
        return
    before, now = (
        {key: value for key, value in (record.get("tuning") or {}).items() if key != "tuned_at"}
        for record in (stored, provenance)
    )
    if before != now:
        then, today = (f"tuned on {tuning['title']}" if tuning else "not tuned" for tuning in (before, now))
        raise ValueError(
            f"{uri} holds these labels as of settings that were {then}, now they are {today}; choose another --out"
        )

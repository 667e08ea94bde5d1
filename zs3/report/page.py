"""The report as one HTML file: pictures inside, nothing fetched, and no script but its own.

Its content security policy allows only the script with the digest of `page.js`, and only `data:` addresses.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zs3.report.charts import reliability, trade_off
from zs3.report.details import confusion_rows, largest_mistakes, left_out, measures
from zs3.report.error_split import TITLES, split_classes, split_means, split_sentence
from zs3.report.formats import flattened, group_words, headline, interval, masks_word, percent
from zs3.report.gallery import KINDS, GalleryItem, fitting
from zs3.wording import printable

MAX_BYTES = 20_000_000
"""Of the page; images that would exceed it are left out, with a sentence that says so."""
_ALLOWED = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "script-src '{}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
_ORIGINS = {
    "labels": "Labels: weights, settings, class list and code",
    "dataset": "Data",
    "settings": "Settings of the evaluation",
    "versions": "Versions",
}
_WORDS = {
    "labels.uri": "label table",
    "labels.checkpoint": "weights",
    "labels.run.checkpoint": "weights, digest",
    "labels.run.segmenting": "segmenting settings, digest",
    "labels.run.naming": "naming settings, digest",
    "labels.run.vocabulary": "class list, digest",
    "labels.run.zs3": "code, zs3",
    "labels.digest": "all that makes a label, digest",
    "labels.runs": "labelling runs, digests",
    "dataset.vocabulary": "class list, digest",
    "dataset.truth": "truth files, digest",
}
"""Names of parts of the provenance."""


def render(report: Mapping[str, Any], gallery: Sequence[GalleryItem], *, limit_bytes: int = MAX_BYTES) -> str:
    """The page: scores, classes, images, mistakes, charts, failures, protocol and provenance; every value is escaped.

    Args:
        report: as `report_values` gives it, maybe with intervals, calibration, confusion and failures.
        gallery: images to show, in order.
        limit_bytes: the page is no larger, unless it would be without any image.
    """
    room = limit_bytes - len(_page(report, ()).encode())
    fits = fitting(gallery, room)
    while True:
        text = _page(report, fits)
        if not fits or len(text.encode()) <= limit_bytes:
            return text
        fits = fitting(fits, sum(item.size for item in fits) * 9 // 10)


def _page(report: Mapping[str, Any], gallery: Sequence[GalleryItem]) -> str:
    """The page with these images."""
    script = files("zs3.report").joinpath("templates", "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    seen = {entry["name"]: entry["seen"] for entry in report["classes"]}
    mistakes = confusion_rows(report["confusion"], seen) if "confusion" in report else None
    curve = reliability(report.get("calibration", ()))
    tuning_curve = trade_off(report["provenance"].get("labels", {}).get("tuning"))
    measured, failures = measures(report), left_out(report)
    sections = (
        ("classes", "Classes", True),
        ("images", "Images", gallery),
        ("points", "Points", report["diagnostics"]),
        ("measures", "Measures", measured),
        ("mistakes", "Mistakes", mistakes),
        ("calibration", "Calibration", curve),
        ("trade-off", "Trade-off", tuning_curve),
        ("failures", "Left out", failures),
        ("protocol", "Protocol", True),
        ("provenance", "Provenance", True),
    )
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            policy=_ALLOWED.format(f"sha256-{digest}"),
            script=Markup(script),  # our own file, and the policy names its digest
            sections=sections,
            sentence=headline(report),
            replicates=report["provenance"].get("settings", {}).get("replicates"),
            measures=measured,
            comparison=_comparison(report),
            split=_split(report.get("error_split")),
            words=group_words(report["classes"]),
            groups=_groups(report["classes"]),
            mistakes=mistakes,
            largest=largest_mistakes(mistakes) if mistakes else [],
            curve=curve,
            trade_off=tuning_curve,
            gallery=[_shown(item) for item in gallery],
            filter_classes=_filter_classes(gallery),
            kinds=[kind for kind in KINDS if any(item.kind == kind for item in gallery)],
            shortage=_shortage(report, len(gallery)),
            failures=failures,
            provenance=_origin(report["provenance"]),
        )
    )


def _printable(value: Any) -> Any:
    """A value as the page writes it, before markup in it is escaped: control characters are shown as `\\x1b`."""
    plain = isinstance(value, Markup) or not isinstance(value, str) or value.isprintable()
    return value if plain else printable(value)


def _environment() -> Environment:
    """Templates that escape values and stop at an undefined name."""
    environment = Environment(
        loader=PackageLoader("zs3.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["thousands"] = "{:,}".format
    environment.filters["interval"] = interval
    environment.filters["masks_word"] = masks_word
    return environment


def _comparison(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The result, and its diagnostics."""
    own = {key: report[key]["miou"] for key in ("seen", "unseen", "harmonic")}
    return [{"title": "As labelled", "note": "The result above.", **own}, *report["diagnostics"]]


def _split(split: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The error split as a sentence and rows."""
    if not split:
        return None
    return {
        "sentence": split_sentence(split),
        "titles": list(TITLES.values()),
        "means": split_means(split),
        "classes": split_classes(split),
    }


def _groups(classes: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, list[Mapping[str, Any]]]]:
    """Key, title, meaning and classes of each group, best first; without those that are absent."""
    best_first = sorted(
        (entry for entry in classes if entry["iou"] is not None),
        key=lambda entry: (-entry["iou"], entry["name"]),
    )
    words = group_words(classes)
    unseen = [entry for entry in best_first if not entry["seen"]]
    seen = [entry for entry in best_first if entry["seen"]]
    return [
        ("unseen", "Unseen classes", words["unseen"], unseen),
        ("seen", "Seen classes", words["seen"], seen),
    ]


def _shown(item: GalleryItem) -> dict[str, Any]:
    """One image, with parts of its legend that the page repeats."""
    names = {entry.class_id: entry.name for entry in item.legend}
    words = {
        f"{part}_words": ", ".join(names[layer.classes[0]] for layer in getattr(item, part)) or "nothing"
        for part in ("truth", "prediction")
    }
    return {
        "image": item,
        "numbers": {entry.class_id: number for number, entry in enumerate(item.legend, start=1)},
        "classes": " ".join(str(entry.class_id) for entry in item.legend),
        **words,
    }


def _filter_classes(gallery: Sequence[GalleryItem]) -> list[tuple[int, str, int]]:
    """Id, name and number of images of each class in the gallery, by name."""
    counts: dict[tuple[str, int], int] = {}
    for item in gallery:
        for entry in item.legend:
            counts[entry.name, entry.class_id] = counts.get((entry.name, entry.class_id), 0) + 1
    return [(class_id, name, count) for (name, class_id), count in sorted(counts.items())]


def _shortage(report: Mapping[str, Any], count: int) -> str:
    """Why the gallery shows fewer images than requested; empty where it does not."""
    requested = min(report["provenance"].get("settings", {}).get("gallery", count), report["images"])
    if count >= requested:
        return ""
    return (
        f"{requested:,} were requested, and {count:,} are shown: the others have no room in a page of "
        f"{MAX_BYTES // 1_000_000} MB, or no score or photograph to show."
    )


def _origin(provenance: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Provenance in groups: title, and rows of key, name (maybe empty) and value; named rows first."""
    groups = []
    for part, title in _ORIGINS.items():
        rows = [
            (key, _WORDS.get(f"{part}.{key}", ""), value)
            for key, value in flattened(provenance.get(part, {}))
        ]
        groups.append((title, sorted(rows, key=lambda row: not row[1])))
    rest = flattened({key: value for key, value in provenance.items() if key not in _ORIGINS})
    groups.append(("Further", [(key, "", value) for key, value in rest]))
    return [(title, rows) for title, rows in groups if rows]

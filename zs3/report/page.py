"""The report as one HTML file that needs no other: pictures inside, no script, nothing fetched."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zs3.report import flat, headline, shown
from zs3.report.error_split import TITLES, split_classes, split_means, split_sentence
from zs3.report.overlays import GalleryItem


def render(report: Mapping[str, Any], gallery: Sequence[GalleryItem]) -> str:
    """The page: headline, classes, gallery, protocol and provenance; every value is escaped.

    Args:
        report: as `report_values` gives it.
        gallery: images to show, in order.
    """
    environment = Environment(
        loader=PackageLoader("zs3.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = shown
    environment.filters["thousands"] = "{:,}".format
    best_first = sorted(
        (entry for entry in report["classes"] if entry["iou"] is not None),
        key=lambda entry: (-entry["iou"], entry["name"]),
    )
    groups = [
        (
            "unseen",
            "Unseen classes",
            "known by name only",
            [entry for entry in best_first if not entry["seen"]],
        ),
        ("seen", "Seen classes", "had training masks", [entry for entry in best_first if entry["seen"]]),
    ]
    as_labelled = {
        "title": "As labelled",
        "note": "The result above.",
        **{key: report[key]["miou"] for key in ("seen", "unseen", "harmonic")},
    }
    split = report.get("error_split")
    return environment.get_template("page.html").render(
        report=report,
        sentence=headline(report),
        groups=groups,
        comparison=[as_labelled, *report["diagnostics"]],
        split={
            "sentence": split_sentence(split),
            "titles": list(TITLES.values()),
            "means": split_means(split),
            "classes": split_classes(split),
        }
        if split
        else None,
        gallery=gallery,
        provenance=flat(report["provenance"]),
    )

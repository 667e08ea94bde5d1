"""`report.html` in a real browser: opens from a file, fetches nothing, and filter, slider and keys do what they say."""

import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zs3.metrics import PROTOCOLS, Confusion, confusion, scores, total
from zs3.report import page as report_page
from zs3.report.gallery import GalleryItem, gallery_item
from zs3.report.overlays import colour
from zs3.report.values import confusion_matrix, report_values
from zs3.vocabulary import ClassEntry, Vocabulary

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright; install zs3 with [dev]")

HOSTILE = "</script><img src=x onerror=hacked=1>\" onload='hacked=1'"
DATA = Vocabulary(
    name="farm",
    classes=(
        ClassEntry(id=0, name="background", role="background"),
        ClassEntry(id=1, name="cat"),
        ClassEntry(id=2, name="dog"),
        ClassEntry(id=3, name=HOSTILE, role="unseen"),
    ),
)
PHOTO = (200, 40, 90)
SIDE = 64


def pictures() -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Image id, kind, truth and prediction: a cat beside nothing, a dog called cat, and the hostile class alone."""
    cat = np.full((SIDE, SIDE), 1)
    cat[:, SIDE // 2 :] = 0
    dog, cow = np.full((SIDE, SIDE), 2), np.full((SIDE, SIDE), 3)
    half = np.where(np.arange(SIDE)[:, None] < SIDE // 2, 1, dog)
    return [("dog called cat", "worst", dog, half), (HOSTILE, "best", cow, cow), ("cat", "random", cat, cat)]


def written(path: Path, **changes: Any) -> Path:
    """A whole report, made as an evaluation makes it, with a hostile title, class, image and reason."""
    held: list[Confusion] = []
    gallery: list[GalleryItem] = []
    photo = np.full((SIDE, SIDE, 3), PHOTO, np.uint8)
    for image_id, kind, truth, prediction in pictures():
        held.append(confusion(truth, prediction, ignore_id=255))
        gallery.append(gallery_item(photo, truth, prediction, DATA, image_id=image_id, kind=kind))
    whole, protocol = total(held), PROTOCOLS["zs3"]
    values = report_values(
        title=f"farm {HOSTILE}",
        scores=scores(whole, DATA.classes, protocol),
        protocol=protocol,
        images=3,
        missing={"without_labels": (2, [HOSTILE, "b"]), "without_truth": (0, [])},
        notes=[HOSTILE],
        diagnostics=[{"title": "Masks alone", "seen": 80.0, "unseen": 70.0, "harmonic": 75.0, "note": "n"}],
        provenance={"labels": {"digest": "0123456789abcdef" * 4}, "settings": {"replicates": 2000}},
    )
    ends = {"low": 10.0, "high": 90.0}
    for key in ("seen", "unseen", "harmonic", "all"):
        values[key] |= ends
    values["classes"] = [entry | ends | {"boundary_iou": 5.0} for entry in values["classes"]]
    values["confusion"] = confusion_matrix(whole, DATA.classes, protocol)
    values["calibration"] = [{"low": 0.4, "high": 0.5, "pixels": 9, "score": 0.45, "accuracy": 0.6}]
    values["calibration_error"] = dict.fromkeys(("seen", "unseen", "harmonic", "all"), 15.0)
    values["failures"] = {"b": HOSTILE}
    path.write_text(report_page.render(values | changes, gallery))
    return path


@dataclass(slots=True)
class Opened:
    """A page, what it asked for besides itself, and what the console said."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's chromium, without a window."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser; on Debian, `apt-get install chromium` as root")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # whose chromium starts without its sandbox only
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def show(browser: Any, file: Path) -> Iterator[Open]:
    """Opens the report, or another page; width in pixels, and whatever a browser's context may be told."""
    contexts = []

    def opened(path: Path = file, *, width: int = 1280, **options: Any) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        held = Opened(context.new_page())
        held.page.on("request", lambda request: held.requests.append(request.url))
        held.page.on(
            "console", lambda said: said.type in ("error", "warning") and held.complaints.append(said.text)
        )
        held.page.on("pageerror", lambda error: held.complaints.append(str(error)))
        held.page.goto(path.as_uri())
        return held

    yield opened
    for context in contexts:
        context.close()


def pixel(panel: Any, x: float = 0.25, y: float = 0.4) -> tuple[int, ...]:
    """The colour that is seen at a place of a panel, in shares of its width and height."""
    with Image.open(io.BytesIO(panel.screenshot())) as picture:
        return picture.convert("RGB").getpixel((int(x * picture.width), int(y * picture.height)))


def near(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two colours look the same: JPEG and scaling change a few levels."""
    return max(abs(one - two) for one, two in zip(first, second, strict=True)) <= 8


def panel(page: Any, image_id: str, part: str) -> Any:
    return page.locator(".gallery .item", has=page.get_by_text(image_id, exact=True)).locator(
        f".panel.{part}"
    )


def test_the_page_opens_without_a_complaint_and_asks_for_nothing_but_itself(show: Open, file: Path) -> None:
    held = show()
    assert held.complaints == []
    assert [url for url in held.requests if not url.startswith("data:")] == [file.as_uri()]
    broken = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert held.page.evaluate(broken) == 0 and held.page.evaluate("document.images.length") > 8


def test_names_from_outside_are_shown_as_they_are_and_run_nothing(show: Open) -> None:
    held = show()
    assert held.page.evaluate("typeof hacked") == "undefined"
    assert held.page.locator("h1").inner_text() == f"farm {HOSTILE}"
    assert held.page.locator(".gallery .title b").nth(1).inner_text() == HOSTILE
    assert HOSTILE in held.page.locator(".failures").inner_text()
    names = held.page.locator("[name=class] option").all_inner_texts()
    assert f"{HOSTILE} (1)" in names


def test_the_policy_lets_nothing_in_and_nothing_out(show: Open) -> None:
    held = show()
    blocked = held.page.evaluate(
        """() => new Promise((done) => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => {
                found.push(event.effectiveDirective);
                if (found.length === 3) done(found);
            });
            const script = document.createElement("script");
            script.textContent = "hacked = 1";
            document.body.append(script);
            new Image().src = "https://zs3.invalid/picture.png";
            fetch("https://zs3.invalid/").catch(() => 0);
        })"""
    )
    assert sorted(blocked) == ["connect-src", "img-src", "script-src-elem"]
    assert held.page.evaluate("typeof hacked") == "undefined"


def test_the_slider_fades_the_layers_over_the_photograph(show: Open) -> None:
    page = show().page
    truth, slider = panel(page, "cat", "truth"), page.locator(".tools [name=opacity]")
    assert near(pixel(panel(page, "cat", "photograph")), PHOTO)
    slider.fill("100")
    assert near(pixel(truth), colour(1))
    slider.fill("0")
    assert near(pixel(truth), PHOTO)
    slider.focus()
    for _ in range(50):
        page.keyboard.press("ArrowRight")
    mixed = tuple((one + two) // 2 for one, two in zip(PHOTO, colour(1), strict=True))
    assert near(pixel(truth), mixed)


def test_what_does_not_count_is_pale(show: Open) -> None:
    page = show().page
    page.locator(".tools [name=opacity]").fill("100")
    assert min(pixel(panel(page, "cat", "truth"), x=0.75)) > 150


def test_wrong_pixels_are_striped_and_right_ones_are_not(show: Open) -> None:
    page = show().page
    with Image.open(io.BytesIO(panel(page, "dog called cat", "errors").screenshot())) as picture:
        grey = np.asarray(picture.convert("L")).astype(int)
    half = grey.shape[0] // 2
    wrong, right = grey[8 : half - 8, 8:-8], grey[half + 8 : -40, 8:-8]
    assert wrong.std() > 50 and right.std() < 5


def test_a_class_is_picked_from_the_list_and_only_its_images_and_layers_stay(show: Open) -> None:
    page = show().page
    page.locator(".tools [name=opacity]").fill("100")
    page.locator("[name=class]").select_option("2")
    assert page.locator(".gallery .item:visible .title b").all_inner_texts() == ["dog called cat"]
    assert page.locator(".status").inner_text() == "1 of 3 images"
    assert near(pixel(panel(page, "dog called cat", "truth")), colour(2))
    prediction = panel(page, "dog called cat", "prediction")
    assert near(pixel(prediction, x=0.9, y=0.25), PHOTO) and near(pixel(prediction, x=0.9, y=0.6), colour(2))
    page.locator("[name=class]").select_option("")
    assert page.locator(".gallery .item:visible").count() == 3
    assert near(pixel(prediction, x=0.9, y=0.25), colour(1))


def test_a_class_is_picked_from_a_legend_and_let_go_again(show: Open) -> None:
    page = show().page
    pick = page.locator(".gallery .item").nth(0).locator(".pick", has_text="cat")
    pick.click()
    assert pick.get_attribute("aria-pressed") == "true"
    shown = page.locator(".gallery .item:visible .title b").all_inner_texts()
    assert shown == ["dog called cat", "cat"]
    pick.click()
    assert page.locator(".gallery .item:visible").count() == 3


def test_the_worst_alone_are_shown_on_demand(show: Open) -> None:
    page = show().page
    page.get_by_label("Show").select_option("worst")
    assert page.locator(".gallery .item:visible .tag").all_inner_texts() == ["worst"]


def test_images_are_enlarged_turned_and_left_by_keyboard(show: Open) -> None:
    page = show().page
    button = page.get_by_role("button", name="Enlarge dog called cat")
    button.focus()
    page.keyboard.press("Enter")
    title, small = page.locator("dialog .title b"), panel(page, "dog called cat", "truth").bounding_box()
    assert title.inner_text() == "dog called cat"
    assert page.locator("dialog .panel.truth").bounding_box()["width"] > 1.5 * small["width"]
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == HOSTILE
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == "cat"
    slider = page.locator("dialog [name=opacity]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == "cat" and slider.input_value() == "63"
    assert page.locator(".tools [name=opacity]").input_value() == "63"
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    playwright.expect(page.get_by_role("button", name="Enlarge cat", exact=True)).to_be_focused()


def test_every_control_is_reached_by_tab_is_named_and_shows_its_focus(show: Open) -> None:
    page = show().page
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => { const at = document.activeElement, look = getComputedStyle(at);
            return [at.tagName, at.ariaLabel || at.labels?.[0]?.innerText || at.innerText, look.outlineStyle]; }"""
        )
        if told[0] == "BODY":
            break
        reached.append(tuple(told))
    assert {"A", "SELECT", "INPUT", "BUTTON", "SUMMARY"} <= {tag for tag, *_ in reached}
    assert all(name.strip() for _, name, _ in reached)
    assert {outline for *_, outline in reached} == {"solid"}
    assert reached[0][1] == "Skip to the scores"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_runs_over_the_edge_and_text_stands_out(show: Open, width: int, scheme: str) -> None:
    page = show(width=width, color_scheme=scheme).page
    for details in page.locator("details").all():
        details.evaluate("(held) => { held.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".enlarge").first.click()
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width
    for inner, outer in (
        ("h1", "body"),
        (".hint", "section:not(.tiles)"),
        (".miou", "section:not(.tiles)"),
        (".notes li", ".notes"),
    ):
        ink, ground = (
            page.evaluate(f"getComputedStyle(document.querySelector({place!r})).{what}")
            for place, what in ((inner, "color"), (outer, "backgroundColor"))
        )
        assert contrast(ink, ground) >= 4.5, (inner, ink, ground)  # what WCAG 2 asks of text, level AA
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) > 0.5) == (scheme == "light")


def test_on_a_phone_no_table_is_cut_off_and_images_come_before_diagnostics(
    show: Open, tmp_path: Path
) -> None:
    names = [f"a class with a long name {number}" for number in range(20)]
    numbers = {"seen": True, "iou": 99.99, "accuracy": 99.99, "pixels": 10**9}
    path = written(
        tmp_path / "report.html",
        classes=[{"name": name, **numbers, "low": 10.0, "high": 90.0, "boundary_iou": 5.0} for name in names],
        confusion={"classes": names, "pixels": [[10**6] * 20] * 20, "other": [10**6] * 20},
        boundary={
            key: {"miou": 23.4, "low": 22.2, "high": 33.3} for key in ("seen", "unseen", "harmonic", "all")
        },
    )
    page = show(path, width=390).page
    for details in page.locator("details").all():
        details.evaluate("(held) => { held.open = true; }")
    cut_off = (
        "[...document.querySelectorAll('.scroll')].filter((held) => held.scrollWidth > held.clientWidth)"
    )
    assert page.locator(".scroll").count() == 4
    assert page.evaluate(f"{cut_off}.map((held) => held.ariaLabel)") == []
    for name in ("stacked", "measures", "matrix"):
        cell = page.locator(f".{name} td.n, .{name} tbody td").first
        assert cell.evaluate("(held) => held.scrollWidth <= held.clientWidth"), name
    sections = page.evaluate("[...document.querySelectorAll('section[id]')].map((held) => held.id)")
    linked = page.evaluate("[...document.querySelectorAll('nav a')].map((held) => held.hash.slice(1))")
    assert sections.index("images") < sections.index("points")
    assert linked == [name for name in sections if name in linked]


def test_without_scripts_every_picture_is_there_and_nothing_that_would_not_work(show: Open) -> None:
    held = show(java_script_enabled=False)
    page = held.page
    assert page.locator(".gallery .item:visible").count() == 3
    assert near(pixel(panel(page, "cat", "photograph")), PHOTO)
    assert not near(pixel(panel(page, "cat", "truth")), PHOTO)
    assert page.locator(".tools").is_hidden() and page.locator(".enlarge:visible").count() == 0
    assert page.locator("noscript").inner_text() and held.complaints == []


def luminance(css: str) -> float:
    """Relative luminance of a CSS colour `rgb(r, g, b)`, in [0, 1]; WCAG 2."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", css)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two CSS colours; WCAG 2."""
    dark, light = sorted(map(luminance, (first, second)))
    return (light + 0.05) / (dark + 0.05)

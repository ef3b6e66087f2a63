"""The report in a real browser: Debian's chromium, driven by Playwright's Python package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hptransfer.reporting.live import watched
from hptransfer.reporting.page.report import report_html
from tests.support.figure_records import study, target_sweep
from tests.support.live_pages import add_rows, growing_study, serving

pytestmark = pytest.mark.browser
CHROMIUM = Path("/usr/bin/chromium")
SCREENS = {"phone": (360, "dark"), "desktop": (1280, "light")}
PAPER = {"light": "rgb(246, 247, 249)", "dark": "rgb(14, 17, 20)"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start the browser once for all tests."""
    reason = "needs playwright's Python package: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    program = str(CHROMIUM) if CHROMIUM.is_file() else shutil.which("chromium")
    if program is None:
        pytest.skip("needs a chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Any]:
    """Return a function that opens a page; after the test no page may have complained."""
    complaints: list[str] = []
    contexts = []

    def require_own(asked: str, address: str) -> None:
        if not asked.startswith((address, "blob:")):
            complaints.append(f"{address} asks for {asked}")

    def open_page(address: str, screen: str) -> Any:
        width, scheme = SCREENS[screen]
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda told: complaints.append(told.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: require_own(asked.url, address))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the quickstart's page, without matplotlib's pictures; return its address."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    nothing = dict.fromkeys(("check", "transfer", "timing"))
    told = {"estimates": study(), "realised": target_sweep(), "sweep": {"question": "Why" * 30}}
    path.write_text(report_html([], commands=["x" * 300], **nothing, **told), encoding="utf-8")
    return path.as_uri()


def curves(page: Any) -> int:
    return page.locator("#charts figure").nth(0).locator("g.curve").count()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_fits_every_screen_in_the_colours_that_are_wanted(
    opened: Any, report: str, screen: str
) -> None:
    page = opened(report, screen)
    width, scheme = SCREENS[screen]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#charts svg").count() == 3
    for drawing in page.locator("#charts svg").all():
        assert drawing.bounding_box()["width"] > 0.8 * min(width, 400)
    card, drawing = page.locator(".card").first, page.locator("#charts svg").first
    assert card.bounding_box()["y"] < 300 and card.bounding_box()["y"] < drawing.bounding_box()["y"]
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == PAPER[scheme]
    page.locator("#theme").click()
    assert page.evaluate(ground) == PAPER["light" if scheme == "dark" else "dark"]


def test_values_are_told_by_pointer_and_by_arrow_keys(opened: Any, report: str) -> None:
    page = opened(report, "desktop")
    figure = page.locator("#charts figure").first
    tip = figure.locator(".tip")
    assert tip.is_hidden()
    figure.locator("g.curve circle[r='5']").first.hover()
    assert "width 24: optimum" in tip.inner_text() and "90 % interval" in tip.inner_text()
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    figure.locator("svg").focus()
    page.keyboard.press("ArrowRight")
    first = tip.inner_text()
    assert "mean loss" in first and "seeds" in first
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != first
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_widths_and_parametrizations_are_switched_by_keyboard(opened: Any, report: str) -> None:
    page = opened(report, "phone")
    assert curves(page) == 3
    width = page.get_by_role("button", name="48", exact=True)
    width.focus()
    page.keyboard.press("Space")
    assert width.get_attribute("aria-pressed") == "false" and curves(page) == 2
    page.keyboard.press("Enter")
    assert width.get_attribute("aria-pressed") == "true" and curves(page) == 3
    page.get_by_role("button", name="standard", exact=True).press("Enter")
    assert page.locator("#charts figcaption").all_inner_texts()[0].startswith("µP: transfers")
    assert page.locator("#charts figure").count() == 2


def test_a_picture_is_saved_as_svg_with_its_own_colours(
    opened: Any, report: str, tmp_path: Path
) -> None:
    page = opened(report, "desktop")
    with page.expect_download() as saved:
        page.locator("#charts figure button.save").first.click()
    assert saved.value.suggested_filename == "quickstart-curves-µP.svg"
    saved.value.save_as(tmp_path / "saved.svg")
    text = (tmp_path / "saved.svg").read_text(encoding="utf-8")
    assert text.startswith("<svg") and "xmlns" in text and "var(" not in text


def test_a_served_page_renews_itself_as_rows_come(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "REST", 0.0)
    folder = growing_study(tmp_path / "mine", 0)
    with serving(folder) as server:
        page = opened(server.url, "desktop")
        page.get_by_text("No trial is finished yet").wait_for()
        add_rows(folder.path, slice(0, 24))
        page.locator("#charts svg").first.wait_for()
        assert "so far: inconclusive" in page.locator(".card").inner_text()
        width = page.locator("#legend button")
        assert width.count() == 0  # one width of one parametrization
        add_rows(folder.path, slice(24, 120))
        page.get_by_role("button", name="24", exact=True).wait_for()
        page.get_by_text("120 of 120 trials").wait_for()
        with page.expect_navigation():
            page.get_by_text("log of the sweep").click()
        assert '"event": "started"' in page.inner_text("body")

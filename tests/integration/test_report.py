"""The report as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medrl.report.page import run_report
from tests.integration.chromium import Tab, find_chromium, tab
from tests.unit.report.conftest import QUESTION, evaluation_run, ppo_run, supervised_run

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no browser of that family is on PATH")
EVIL = "<script>document.title = 'taken over'</script>" + "长" * 400 + "A" * 400


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a pipeline whose model answers with markup and very long words."""
    folder = tmp_path_factory.mktemp("report") / "a-pipeline-with-a-rather-long-name-that-has-no-space"
    supervised_run(folder / "sft", rows=300)
    ppo_run(folder / "ppo", steps=30, answer=EVIL)
    evaluation_run(folder / "exam")
    (folder / "pipeline.json").write_text('{"sft": {"seconds": 9}, "ppo": {"seconds": 20}, "exam": {"seconds": 5}}')
    return run_report(str(folder), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with tab(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_fits_the_screen_and_reports_no_error(browser: Tab, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.value("innerWidth") == width
    browser.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.value("document.documentElement.scrollWidth") <= width
    bad = [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown",
                                                                    "Runtime.consoleAPICalled")]
    assert bad == []
    asked = [event["params"]["request"]["url"] for event in browser.events
             if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.resolve().as_uri()]


def test_every_section_is_there_to_be_seen(browser: Tab, page: Path) -> None:
    browser.open(page, 390)
    heights = browser.value(
        "[...document.querySelectorAll('main > section')].map(s => [s.children[0].innerText, s.offsetHeight])")
    assert [name.split("\n")[0] for name, _ in heights] == ["Summary", "sft", "ppo", "exam"]
    assert all(height > 100 for _, height in heights)
    drawn = browser.value("[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().height)")
    assert len(drawn) >= 8 and all(height > 100 for height in drawn)
    assert QUESTION in browser.value("document.body.innerText")


def test_an_answer_cannot_run(browser: Tab, page: Path) -> None:
    browser.open(page, 1280)
    assert browser.value("document.title").endswith("medrl report")
    assert EVIL in browser.value("document.querySelector('#run-2 .side + .side .text').textContent")


def test_text_stands_out_from_its_ground_by_day_and_by_night(browser: Tab, page: Path) -> None:
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(page, 1280)
        colours = browser.value(
            "(s => ['--text', '--quiet', '--good', '--bad', '--accent', '--card', '--soft', '--good-ground',"
            " '--bad-ground'].map(n => s.getPropertyValue(n).trim()))(getComputedStyle(document.documentElement))")
        text, quiet, good, bad, accent, card, soft, good_ground, bad_ground = colours
        pairs = [(text, card), (text, soft), (quiet, card), (quiet, soft), (accent, card), (good, good_ground),
                 (bad, bad_ground)]
        assert all(contrast(*pair) >= 4.5 for pair in pairs), (scheme, [(*p, contrast(*p)) for p in pairs])


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, from #rrggbb."""
    def luminance(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)

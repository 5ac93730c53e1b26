"""The report as a browser shows it."""

from __future__ import annotations

import pytest

from medrl.report.page import run_report
from tests.integration.chromium import Tab, contrast
from tests.unit.report.conftest import QUESTION, evaluation_run, ppo_run, supervised_run

EVIL = "<script>document.title = 'taken over'</script>" + "长" * 400 + "A" * 400


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a pipeline whose model answers with markup and very long words."""
    folder = tmp_path_factory.mktemp("report") / "a-pipeline-with-a-rather-long-name-that-has-no-space"
    supervised_run(folder / "sft", rows=300)
    ppo_run(folder / "ppo", steps=30, answer=EVIL)
    evaluation_run(folder / "exam")
    (folder / "pipeline.json").write_text('{"sft": {"seconds": 9}, "ppo": {"seconds": 20}, "exam": {"seconds": 5}}')
    return run_report(str(folder), None).resolve().as_uri()


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_fits_the_screen_and_reports_no_error(browser: Tab, page: str, width: int) -> None:
    browser.open(page, width)
    assert browser.value("innerWidth") == width
    browser.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.trouble() == []
    assert browser.requested() == [page]


def test_every_section_is_there_to_be_seen(browser: Tab, page: str) -> None:
    browser.open(page, 390)
    heights = browser.value(
        "[...document.querySelectorAll('main > section')].map(s => [s.children[0].innerText, s.offsetHeight])")
    assert [name.split("\n")[0] for name, _ in heights] == ["Summary", "sft", "ppo", "exam"]
    assert all(height > 100 for _, height in heights)
    drawn = browser.value("[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().height)")
    assert len(drawn) >= 8 and all(height > 100 for height in drawn)
    assert QUESTION in browser.value("document.body.innerText")


def test_an_answer_cannot_run(browser: Tab, page: str) -> None:
    browser.open(page, 1280)
    assert browser.value("document.title").endswith("medrl report")
    assert EVIL in browser.value("document.querySelector('#run-2 .side + .side .text').textContent")


def test_text_stands_out_from_its_ground_by_day_and_by_night(browser: Tab, page: str) -> None:
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.open(page, 1280)
        text, quiet, good, bad, accent, card, soft, good_ground, bad_ground = browser.colours(
            "--text", "--quiet", "--good", "--bad", "--accent", "--card", "--soft", "--good-ground", "--bad-ground")
        pairs = [(text, card), (text, soft), (quiet, card), (quiet, soft), (accent, card), (good, good_ground),
                 (bad, bad_ground)]
        assert all(contrast(*pair) >= 4.5 for pair in pairs), (scheme, [(*p, contrast(*p)) for p in pairs])

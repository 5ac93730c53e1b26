"""The page: what it says, what it leaves out, and that text from a model stays text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medrl.errors import ConfigError
from medrl.report.page import render, run_report
from medrl.report.read import read_folder
from medrl.report.sections import section
from tests.unit.report.conftest import QUESTION, evaluation_run, ppo_run, supervised_run

pytestmark = pytest.mark.heavy


class Page(HTMLParser):
    """Tags, text and attributes of a page; every element must be closed."""

    VOID = {"meta", "link"}  # SVG closes its own

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.headings: list[str] = []  # of the second level
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def page(folder: Path) -> Page:
    return Page(render(read_folder(folder), folder.name))


def test_all_links_of_a_pipeline_are_sections_in_order(pipeline: Path) -> None:
    made = page(pipeline)
    assert made.headings == ["Summary", "sft", "ppo", "exam"]
    for said in (QUESTION, "多休息", "Call one now.", "escalates red flags", "37 of 40", "0.330 to 0.490",
                 "3m00s in all", "base/model"):
        assert said in made.text, said


def test_ids_are_unique_and_what_they_label_is_there(pipeline: Path) -> None:
    tags = page(pipeline).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [name for _, a in tags for name in (a.get("aria-labelledby") or "").split()]
    named += [(a.get("href") or "").removeprefix("#") for tag, a in tags if tag == "a"]
    assert named and set(named) <= set(ids)


def test_the_headline_is_the_change_in_deviations(tmp_path: Path) -> None:
    (run,) = read_folder(ppo_run(tmp_path / "ppo"))
    reward, kl, length, distinct = section(run).headline
    assert (reward.before, reward.value) == ("−0.500", "+0.500")
    assert reward.note == "+2.00 standard deviations of the scores before"  # (0.5 − −0.5) / 0.5
    assert kl.value == "1.00" and "mean 0.625 over 4 steps" in kl.note  # (1 + 2 + 3 + 4) / 4 / 4
    assert (length.before, length.value, distinct.before, distinct.value) == ("7.00", "9.00", "0.500", "0.250")


def test_the_win_rate_has_its_interval(tmp_path: Path) -> None:
    folder = ppo_run(tmp_path / "ppo")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[-1] |= {"eval/win_rate": 0.75, "eval/win_rate_low": 0.5, "eval/win_rate_high": 0.875}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wins = section(read_folder(folder)[0]).headline[1]
    assert (wins.label, wins.value) == ("Win rate", "0.750") and "0.500 to 0.875" in wins.note


def test_held_out_losses_share_the_chart_of_the_loss(tmp_path: Path) -> None:
    folder = supervised_run(tmp_path / "sft")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "steps": 5, "eval_loss": 0.5}\n')
    charts = section(read_folder(folder)[0]).charts
    assert [line.name for line in charts[0].lines] == ["training", "held-out"] and len(charts) == 4


def test_answers_are_paired_by_prompt(tmp_path: Path) -> None:
    (run,) = read_folder(ppo_run(tmp_path / "ppo"))
    answers = section(run).answers
    assert answers is not None and (answers.before, answers.after) == ("before training", "after step 4")
    first, second = answers.shown
    assert (first.before, first.after, first.difference) == ("before one", "多休息", "+2.00")
    assert (second.before, second.after, second.difference) == ("before two", "", "0.00")
    assert "(empty answer)" in page(tmp_path / "ppo").text


@pytest.mark.parametrize("evil", [
    "<script>alert(1)</script>", "</p><img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "{{ 7*7 }}", "&lt;b>"])
def test_a_model_s_answer_stays_text(tmp_path: Path, evil: str) -> None:
    plain, made = page(ppo_run(tmp_path / "a/ppo")), page(ppo_run(tmp_path / "b/ppo", answer=evil))
    assert evil in made.text and [tag for tag, _ in made.tags] == [tag for tag, _ in plain.tags]


def test_the_page_needs_nothing_else_and_runs_nothing(pipeline: Path) -> None:
    tags = page(pipeline).tags
    assert not {"script", "iframe", "img", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith(("#", "data:")) and "src" not in attributes
    (policy,) = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'")


def test_a_run_that_broke_off(tmp_path: Path) -> None:
    made = page(ppo_run(tmp_path / "ppo", steps=3, finished=False))
    assert "broke off or is still going: 3 of 4 steps" in made.text and "before one" in made.text
    assert "not asked" in made.text and "Held-out reward" not in made.text
    supervised = supervised_run(tmp_path / "sft")
    (supervised / "report.json").unlink()
    assert "5 rows of metrics so far" in page(supervised).text


def test_a_run_without_jsonl_tracking_says_what_it_can(tmp_path: Path) -> None:
    folder = ppo_run(tmp_path / "ppo")
    for name in ("metrics.jsonl", "samples.jsonl"):
        (folder / name).unlink()
    assert "DeepSpeedEngine" in page(folder).text and "broke off" not in page(folder).text


def test_before_the_first_step_there_is_a_page_too(tmp_path: Path) -> None:
    made = page(ppo_run(tmp_path / "ppo", steps=0, finished=False))
    assert "0 of 4 steps" in made.text and "before one" in made.text
    assert "Reward" in made.text  # the held-out answers' scores before training


def test_an_evaluation_with_and_without_a_baseline(tmp_path: Path) -> None:
    (run,) = read_folder(evaluation_run(tmp_path / "exam"))
    accuracy, bleu = section(run).results
    assert (accuracy.value, accuracy.interval, accuracy.baseline, accuracy.difference) == (
        "0.410", "0.330 to 0.490", "0.300", "+0.110")
    assert (accuracy.whisker.low, accuracy.whisker.value, accuracy.whisker.high) == pytest.approx((33, 41, 49))
    assert (bleu.interval, bleu.difference, bleu.whisker.low) == ("", "", None)
    assert [(rule.count, rule.share, rule.baseline) for rule in section(run).rules] == [("37 of 40", 92.5, 75.0)]
    alone = page(evaluation_run(tmp_path / "alone", baseline=False))
    assert "Call one now." in alone.text and "Rest." not in alone.text


def test_every_set_of_an_evaluation_is_heard(tmp_path: Path) -> None:
    folder = evaluation_run(tmp_path / "exam")
    content = json.loads((folder / "evaluation.json").read_text())
    content["samples"] = [content["samples"][0] | {"set": name, "answer": f"{name} {n}"}
                          for name in ("one", "two") for n in range(20)]
    (folder / "evaluation.json").write_text(json.dumps(content))
    answers = section(read_folder(folder)[0]).answers
    assert answers is not None and answers.total == 40 and len(answers.shown) == 24
    assert [answer.after for answer in answers.shown[:4]] == ["one 0", "two 0", "one 1", "two 1"]


def test_a_folders_name_may_be_anything(tmp_path: Path) -> None:
    for number, name in enumerate(("my run <b>", "summary", "run-1")):
        tags = page(ppo_run(tmp_path / str(number) / name)).tags
        ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
        assert len(ids) == len(set(ids)) and not [i for i in ids if " " in str(i)] and "b" not in dict(tags)


def test_metrics_nobody_foresaw_get_a_chart(tmp_path: Path) -> None:
    (run,) = read_folder(supervised_run(tmp_path / "dpo", stage="dpo"))
    made = section(run)
    assert made.title == "DPO" and [chart.title for chart in made.charts] == [
        "Loss", "Learning rate", "Gradient norm", "margin"]


def test_the_command_writes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ppo_run(tmp_path / "ppo")
    assert run_report(str(folder), None) == folder / "report.html" and "report.html" in capsys.readouterr().out
    assert run_report(str(folder), str(tmp_path / "new/page.html")).read_text() == (folder / "report.html").read_text()
    with pytest.raises(ConfigError, match="cannot write"):
        run_report(str(folder), str(folder / "metrics.jsonl" / "page.html"))

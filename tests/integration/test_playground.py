"""The playground in a browser, before a real service of two tiny versions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from medrl.config.feedback import FeedbackConfig
from medrl.feedback import FeedbackStore, preference_pairs
from tests.integration.chromium import Tab, contrast
from tests.services import Running, running_service
from tests.versions import tiny_registry

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
VARIABLE, KEY = "MEDRL_TEST_PLAYGROUND_KEY", "tiny-key"
QUESTION = "What helps against a cold?"
LONG = "长" * 300 + " " + "A" * 400
STOPPED, READY = "document.getElementById('stop').disabled", "!document.getElementById('chat').hidden"
TEXTS = "[...document.querySelectorAll('.text')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> FeedbackConfig:
    return FeedbackConfig(url=f"sqlite:///{tmp_path_factory.mktemp('feedback')}/feedback.db")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, database: FeedbackConfig) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("versions")
    tiny_registry(folder, 2, max_position_embeddings=2048)
    config = folder / "serve.yaml"
    config.write_text(json.dumps({
        "registry": {"root": str(folder / "registry")}, "candidate": True, "api_key_env": VARIABLE, "dtype": "float32",
        "kv_cache_gib": 0.25, "feedback": database.model_dump()}))
    with running_service(["serve", str(config)], os.environ | {VARIABLE: KEY}) as running:
        yield running


@pytest.fixture
def page(browser: Tab, service: Running) -> Tab:
    """The page after the key was given, with short greedy answers."""
    return opened(browser, service, 1280)


def opened(tab: Tab, service: Running, width: int) -> Tab:
    tab.open(f"{service.url}/playground", width)
    tab.wait(f"{READY} || !document.getElementById('key-form').hidden")
    if not tab.value(READY):
        tab.type(KEY)  # the focus is there
        tab.press("Enter")
        tab.wait(READY)
    settle(tab, 40)
    return tab


def settle(tab: Tab, tokens: int | str, temperature: float = 0) -> None:
    tab.value(f"document.getElementById('temperature').value = {temperature};"
              f"document.getElementById('max-tokens').value = {json.dumps(tokens)}")


def ask(tab: Tab, question: str = QUESTION) -> None:
    turns = tab.value("document.querySelectorAll('.turn').length")
    tab.value("document.getElementById('question').focus()")
    tab.type(question)
    tab.press("Enter")
    tab.wait(f"document.querySelectorAll('.turn').length > {turns}")  # an answer may be there before we look


def greedy(service: Running, base: str, messages: list[dict[str, str]]) -> str:
    client = openai.OpenAI(base_url=f"{service.url}{base}/v1", api_key=KEY, max_retries=0, timeout=120)
    sent: Any = messages
    return client.chat.completions.create(
        model="medrl", messages=sent, max_tokens=40, temperature=0).choices[0].message.content or ""


def test_an_answer_streams_in_and_the_next_question_comes_after_it(page: Tab, service: Running) -> None:
    settle(page, 400)
    ask(page)
    lengths = set()
    while not page.value(STOPPED):
        lengths.add(page.value("document.querySelector('.text').textContent.length"))
    assert len(lengths - {0}) >= 3  # seen while it grew
    page.value("document.getElementById('clear').click()")
    settle(page, 40)
    turns: list[dict[str, str]] = []
    for question in (QUESTION, "感冒了怎么办？"):
        ask(page, question)
        page.wait(STOPPED)
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": greedy(service, "", turns)})
    assert page.value(TEXTS) == [turn["content"] for turn in turns if turn["role"] == "assistant"]
    assert page.value("document.querySelector('.version b').textContent") == "1"
    assert page.value("document.activeElement.id") == "question"


def test_stop_ends_the_answer_and_keeps_what_there_is(page: Tab) -> None:
    settle(page, "")
    ask(page)
    page.wait("document.querySelector('.text').textContent.length > 5")
    page.press("Escape")
    page.wait(STOPPED)
    said = page.value(TEXTS)
    time.sleep(0.3)
    assert page.value(TEXTS) == said and page.value("document.querySelector('.ended').innerText") == "Stopped."
    assert page.value("document.getElementById('status').innerText") == "Stopped."
    settle(page, 40)
    ask(page, "And now?")
    page.wait(STOPPED)
    sent = [event["params"]["request"] for event in page.events if event["method"] == "Network.requestWillBeSent"]
    turns = json.loads(sent[-1]["postData"])["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"] and turns[1]["content"] == said[0]


def test_two_versions_side_by_side(page: Tab, service: Running) -> None:
    page.value("document.getElementById('compare').click()")
    ask(page)
    page.wait(STOPPED)
    asked = [{"role": "user", "content": QUESTION}]
    expected = [greedy(service, base, asked) for base in ("", "/candidate")]
    assert page.value(TEXTS) == expected and expected[0] != expected[1]
    assert page.value("[...document.querySelectorAll('.version b')].map(e => e.textContent)") == ["1", "2"]
    left, right = page.value("[...document.querySelectorAll('.answer')].map(e => e.getBoundingClientRect().left)")
    assert right > left + 300


def test_a_rating_and_a_better_answer_become_a_preference_pair(page: Tab, database: FeedbackConfig) -> None:
    page.value("document.getElementById('compare').click()")
    ask(page)
    page.wait(STOPPED)
    for place in (0, 1):  # each app takes the feedback on its own answers
        card = f"document.querySelectorAll('.answer')[{place}]"
        page.value(f"{card}.querySelector('[data-rating=down]').click()")
        page.wait(f"{card}.querySelector('.rated').innerText == 'Thank you, saved.'")
    store = FeedbackStore(database)
    assert store.for_training(time.time()) == []  # no consent yet, no text
    page.value(f"{card}.querySelector('.more').open = true; {card}.querySelector('[name=better_answer]').focus()")
    page.type("多休息。")
    page.value(f"{card}.querySelector('[name=may_train]').click(); {card}.querySelector('.rated').replaceChildren()")
    page.value(f"{card}.querySelector('form button').click()")
    page.wait(f"{card}.querySelector('.rated').innerText != ''")
    rows = store.for_training(time.time())
    asked = {"role": "user", "content": QUESTION}
    assert rows == [{"rating": "down", "messages": [asked], "answer": page.value(TEXTS)[1], "comment": "",
                     "better_answer": "多休息。"}]
    assert [(pair.messages, pair.chosen) for pair in preference_pairs(rows)[0]] == [((asked,), "多休息。")]


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_fits_the_screen_and_keeps_to_its_service(browser: Tab, service: Running, width: int) -> None:
    browser.scheme("light")
    page = opened(browser, service, width)
    assert page.value("innerWidth") == width
    page.value("document.getElementById('compare').click()")
    ask(page, "I have chest pain. " + LONG)
    page.wait(STOPPED)
    page.value("document.querySelectorAll('.rate').forEach(r => r.querySelector('button').click())")
    page.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.wait("[...document.querySelectorAll('.rated')].every(e => e.innerText)")
    for _language in ("en", "zh"):
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.nameless() == []
        page.value("document.getElementById('language').click()")
    assert page.value("document.querySelector('.warning').checkVisibility()")  # an emergency is seen
    assert page.trouble() == []
    assert page.requested() and all(url.startswith(f"{service.url}/") for url in page.requested())
    assert page.value("localStorage.length") == 0 and page.value("document.cookie") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_by_day_and_by_night(browser: Tab, service: Running, scheme: str) -> None:
    browser.scheme(scheme)
    page = opened(browser, service, 1280)
    ask(page, "I have chest pain")
    page.wait(STOPPED)
    page.value("document.querySelector('[data-rating=down]').click()")
    page.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.wait("document.querySelector('.rated').innerText")
    seen = page.texts()
    assert len(seen) > 20
    assert [(row, contrast(*row[1:])) for row in seen if contrast(*row[1:]) < 4.5] == []


def test_a_wrong_key_is_told_and_not_kept(browser: Tab, service: Running) -> None:
    page = opened(browser, service, 390)
    page.value("document.getElementById('forget').click()")
    page.wait("!document.getElementById('key-form').hidden")
    page.type("wrong")
    page.press("Enter")
    page.wait("document.getElementById('key-error').innerText != ''")
    assert page.value("document.getElementById('key-error').innerText") == "The service does not know this key."
    assert page.value("sessionStorage.getItem('medrl-key')") is None

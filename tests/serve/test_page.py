"""The playground's page: open, with a strict policy, and nothing in it from elsewhere."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from medrl.config.base import build_config
from medrl.config.serving import ServeConfig
from serve.auth import Authorization
from serve.context import RequestContexts
from serve.page import FILES, playground_routes
from serve.routes import OwnRoutes
from tests.serve.clients import ask, key_config


def service(**config) -> RequestContexts:
    routes = playground_routes(build_config(ServeConfig, {"model": "m", **config}))
    app = Authorization(OwnRoutes(Starlette(), routes), [key_config("ward", "key", "infer")])
    return RequestContexts(Starlette(routes=[Mount("/candidate", app), Mount("/", app)]))


@pytest.mark.parametrize("prefix", ["", "/candidate"])
def test_the_page_is_open_and_may_load_nothing_from_elsewhere(prefix: str) -> None:
    moved = ask(service(), "GET", f"{prefix}/playground")
    assert moved.status_code == 307 and moved.next_request and moved.next_request.url.path == f"{prefix}/playground/"
    for name, kind in (("", "text/html"), ("playground.css", "text/css"), ("playground.js", "text/javascript")):
        said = ask(service(), "GET", f"{prefix}/playground/{name}")
        assert said.status_code == 200 and said.headers["content-type"].startswith(kind)
        assert said.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in said.headers["content-security-policy"] and "http" not in said.text.replace("HTTP", "")


@pytest.mark.parametrize("path", ["../page.py", "%2e%2e/page.py", "none.js", "//etc/passwd"])
def test_no_other_file_is_served(path: str) -> None:
    assert ask(service(), "GET", f"/playground/{path}").status_code in (401, 404)


def test_what_the_page_has_to_know() -> None:
    said = ask(service(feedback={}, keys=[{"id": "a", "sha256": "0" * 64}], manners={"intended_use": "Trial 7."}),
               "GET", "/playground/settings.json").json()
    assert said == {"key_needed": True, "feedback": True, "candidate": False, "intended_use": "Trial 7."}
    said = ask(service(), "GET", "/playground/settings.json").json()
    assert not (said["key_needed"] or said["feedback"])


def test_it_can_be_left_out() -> None:
    assert ask(service(playground=False), "GET", "/playground/").status_code == 404


def test_every_word_of_the_page_is_in_both_languages() -> None:
    page = (FILES / "index.html").read_text(encoding="utf-8")
    words = re.findall(r'<(?:span|strong) class="t" lang="(en|zh)">', page)
    assert len(words) > 60 and words == ["en", "zh"] * (len(words) // 2)
    names = re.findall(r'say(?:\([^,]+, |-)"?([a-z-]+)"', (FILES / "playground.js").read_text() + page)
    assert {"answering", "done", "saved"} <= {*names}
    assert all(f'id="say-{name}"' in page for name in names if name != "status")

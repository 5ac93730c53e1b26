"""/playground: a static page to talk to the model with (files: serve/playground)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from medrl.config.serving import ServeConfig

FILES = Path(__file__).parent / "playground"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def playground_routes(config: ServeConfig) -> list[BaseRoute]:
    """The page, its files, and what it has to know before it has a key. None when the config says so."""
    if not config.playground:
        return []
    settings = {
        "key_needed": config.guarded, "feedback": config.feedback is not None, "candidate": config.candidate,
        "intended_use": config.manners.intended_use,
    }

    async def tell(_request: Request) -> Response:
        return JSONResponse(settings, headers=HEADERS)

    async def to_page(_request: Request) -> Response:
        return RedirectResponse("playground/")  # relative: the app may be mounted below a prefix

    return [
        Route("/playground", to_page),
        Route("/playground/settings.json", tell),
        Mount("/playground", _Files(directory=FILES, html=True)),
    ]

"""Which scope a route needs. The one place that says so: what is not named here needs `admin`, new routes too."""

from __future__ import annotations

from starlette._utils import get_route_path
from starlette.types import Scope

from medrl.config.keys import KeyScope

# Routes that make the model work, which the limits on requests are for.
GENERATE = frozenset({
    "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses", "/v1/messages",
    "/v1/systemone", "/generative_scoring", "/inference/v1/generate", "/invocations", "/score",
})
# Answers to one key's requests: /v1/responses/<id> is not among them, nobody knows whose response that is.
INFER = GENERATE | {
    "/v1/models", "/tokenize", "/detokenize", "/v1/messages/count_tokens", "/v1/feedback",
    "/v1/chat/completions/render", "/v1/completions/render", "/v1/responses/render", "/v1/messages/render",
    "/v1/chat/completions/derender", "/v1/completions/derender",
}
OPEN = frozenset({"/health", "/playground"})


def route_of(scope: Scope) -> str:
    """The path as routers compare it: without the prefix an app is mounted at."""
    return get_route_path(scope)


def route_label(scope: Scope) -> str:
    """The route where it is a known one, else "other": paths are without number, and hold what clients like."""
    route = route_of(scope)
    return route if route in INFER | OPEN else "other"


def needed_scope(route: str) -> KeyScope | None:
    """None: no key is needed."""
    if route in OPEN or route.startswith("/playground/"):
        return None
    return "infer" if route in INFER else "admin"

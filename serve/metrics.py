"""Prometheus metrics of the service. Ray records them in every replica; GET /metrics shows all replicas together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import httpx
import ray
from ray.util.metrics import Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.context import CURRENT, RequestContext
from serve.scopes import route_label

SHOWN = ("ray_medrl_", "ray_vllm_", "ray_serve_")  # of all that Ray's agents hold
AGENT_SECONDS = 5.0  # until a node's agent is taken for silent
GONE = 499  # nginx's status for a client that went away
WHO = ("version", "key")
SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0]
PER_TOKEN = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]


class ServiceMetrics:
    """The metrics, by their names without Ray's prefix `ray_`. Labels have few values: known routes, key ids."""

    def __init__(self) -> None:
        self.requests = Counter("medrl_requests_total", "requests by status", ("route", "status", *WHO))
        self.latency = Histogram("medrl_request_seconds", "whole requests", SECONDS, ("route", *WHO))
        self.first_token = Histogram("medrl_first_token_seconds", "to a stream's first token", SECONDS, WHO)
        self.per_token = Histogram("medrl_output_token_seconds", "per token after a stream's first", PER_TOKEN, WHO)
        self.prompt_tokens = Counter("medrl_prompt_tokens_total", "tokens of prompts", WHO)
        self.completion_tokens = Counter("medrl_completion_tokens_total", "tokens of answers", WHO)
        self.escalations = Counter("medrl_escalations_total", "requests with a sign of an emergency", ("rule",))
        self.running = Gauge("medrl_requests_running", "requests that are being answered")

    def observe(self, context: RequestContext, route: str, status: int, started: float) -> None:
        """A request that has ended. `started`: time.monotonic() when it came."""
        who = {"version": context.version, "key": context.key_id}
        self.requests.inc(1, {"route": route, "status": str(status), **who})
        self.latency.observe(time.monotonic() - started, {"route": route, **who})
        if context.escalation:
            self.escalations.inc(1, {"rule": context.escalation})
        if context.prompt_tokens:
            self.prompt_tokens.inc(context.prompt_tokens, who)
        if context.completion_tokens:
            self.completion_tokens.inc(context.completion_tokens, who)
        if context.first_token is not None and context.last_token is not None:
            self.first_token.observe(context.first_token - started, who)
            later = context.completion_tokens / context.choices - 1  # tokens of one answer after its first
            if later > 0:
                self.per_token.observe((context.last_token - context.first_token) / later, who)


class Metrics:
    """ASGI middleware inside RequestContexts: every request counts, refused ones and those that fail too."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app = app
        self.metrics = metrics
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status, whole, gone = time.monotonic(), 500, False, False

        async def send_noted(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        async def receive_noted() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not whole)
            return message

        self._run(+1)
        try:
            await self.app(scope, receive_noted, send_noted)
        except asyncio.CancelledError:
            gone = True
            raise
        finally:
            self._run(-1)
            self.metrics.observe(CURRENT.get(), route_label(scope), GONE if gone else status, started)

    def _run(self, change: int) -> None:
        self.running += change
        self.metrics.running.set(self.running)


def metrics_route() -> Route:
    """GET /metrics: what all of the cluster's nodes know of the service, vLLM's own metrics included."""
    return Route("/metrics", _show, methods=["GET"])


async def _show(_request: Request) -> Response:
    nodes = await asyncio.to_thread(ray.nodes)
    agents = [f"http://{n['NodeManagerAddress']}:{n['MetricsExportPort']}/metrics" for n in nodes if n["Alive"]]
    async with httpx.AsyncClient(timeout=AGENT_SECONDS, trust_env=False) as client:
        answers = await asyncio.gather(*(client.get(agent) for agent in agents), return_exceptions=True)
    pages = [answer.text for answer in answers if isinstance(answer, httpx.Response) and answer.is_success]
    headers = {"x-nodes-missing": str(len(agents) - len(pages))}
    return PlainTextResponse(merge(pages), headers=headers, media_type="text/plain; version=0.0.4")


def merge(pages: Iterable[str]) -> str:
    """Pages in Prometheus' text format as one, each family once, with the samples of all. Only the service's own."""
    families: dict[str, dict[str, None]] = {}
    for page in pages:
        family = ""
        for line in page.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
            if family.startswith(SHOWN):
                families.setdefault(family, {})[line] = None
    return "".join(f"{line}\n" for lines in families.values() for line in lines)

"""A reward model over HTTP on Ray Serve (`medrl serve-reward`; protocol: docs/rewards.md)."""

# No `annotations` from __future__: Ray Serve reads the class of build's parameter.

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from fastapi import FastAPI, Request
from pydantic import Field, ValidationError
from ray import serve
from ray.serve import Application
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from medrl.config.admission import AdmissionConfig
from medrl.config.base import StrictModel
from medrl.config.keys import KeyConfig, load_keys
from medrl.config.serving import ServeRewardConfig
from medrl.errors import DataError, RewardError
from medrl.models.export import load_calibration
from medrl.types import ScoreRequest
from serve.admission import Admission
from serve.auth import Authorization
from serve.body_limit import BodyLimit
from serve.context import RequestContexts
from serve.errors import ErrorScrub, error_response, log_failure
from serve.readiness import Doorway

KNOWN_NAMES = {"items", "messages", "role", "content", "answer", "ended"}


class Turn(StrictModel):
    """One turn of a conversation."""

    role: str
    content: str


class Item(StrictModel):
    """One answer to be scored."""

    messages: list[Turn] = Field(min_length=1)
    answer: str
    ended: bool = True


class ScoreBody(StrictModel):
    """The body of POST /score."""

    items: list[Item] = Field(min_length=1)

    def requests(self) -> list[ScoreRequest]:
        return [ScoreRequest(tuple(t.model_dump() for t in i.messages), i.answer, i.ended) for i in self.items]


class RewardApp:
    """POST /score and GET /health around `score`, which takes one call at a time, in a thread of its own."""

    def __init__(
        self, config: ServeRewardConfig, score: Callable[[Sequence[ScoreRequest]], np.ndarray], calibrated: bool
    ) -> None:
        self.config = config
        self.model = score
        self.calibrated = calibrated
        self.thread = ThreadPoolExecutor(1)

    def asgi(self, keys: Sequence[KeyConfig]) -> ASGIApp:
        """The app; only /health answers without one of the keys, if there are any."""
        app = FastAPI(openapi_url=None)
        app.add_api_route("/score", self.score, methods=["POST"])
        app.add_api_route("/health", self.health, methods=["GET"])
        app.add_exception_handler(HTTPException, _as_json)  # pyright: ignore[reportArgumentType]
        admitted = Admission(app, AdmissionConfig(max_running=self.config.max_requests, max_queued=0))
        limited = BodyLimit(admitted, self.config.max_body_mib)
        self.doorway = Doorway(Authorization(limited, keys))
        return RequestContexts(ErrorScrub(self.doorway))

    async def health(self) -> Response:
        return JSONResponse({"status": "ok", "calibrated": self.calibrated})

    async def score(self, request: Request) -> Response:
        requests = self._parse(await request.body())
        scores = await asyncio.get_running_loop().run_in_executor(self.thread, self._score, requests)
        return JSONResponse({"scores": scores, "calibrated": self.calibrated})

    def _parse(self, body: bytes) -> list[ScoreRequest]:
        try:
            requests = ScoreBody.model_validate_json(body).requests()
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            # Of the place only what we named ourselves: a wrong key may be text of a patient.
            known = (part if isinstance(part, int) or part in KNOWN_NAMES else "…" for part in first["loc"])
            place = ".".join(map(str, known)) or "body"
            raise HTTPException(422, f"{place}: {first['type']} (the form is in docs/rewards.md)") from None
        if len(requests) > self.config.max_items:
            raise HTTPException(413, f"{len(requests)} items are more than max_items {self.config.max_items}")
        return requests

    def _score(self, requests: list[ScoreRequest]) -> list[float]:
        try:
            scores = self.model(requests)
        except RewardError as error:
            raise HTTPException(422, f"{error.message}: {error.got}, limit {error.limit}") from None
        except DataError as error:
            raise HTTPException(422, error.message) from None
        except Exception as error:
            log_failure("scoring failed", error)
            raise HTTPException(500, "scoring failed; the replica's log says where") from None
        if not np.isfinite(scores).all():
            raise HTTPException(500, "the reward model gave a score that is not a finite number")
        return scores.tolist()


async def _as_json(_request: Request, error: HTTPException) -> Response:
    return error_response(error.status_code, error.detail, error.headers)


@serve.deployment
@serve.ingress()
class RewardService:
    """One replica: its own copy of the model."""

    def __init__(self, config: ServeRewardConfig, keys: list[KeyConfig]) -> None:
        from medrl.models.reward_model import RewardModel

        calibration = load_calibration(config.model)
        model = RewardModel(
            config.model, config.dtype, name="items", max_length=config.max_length,
            micro_batch_size=config.micro_batch_size, calibration=calibration,
        )
        self.app_around_model = RewardApp(config, model.score, calibration is not None)
        self.keys = keys

    async def drain(self, seconds: float) -> None:
        await self.app_around_model.doorway.drain(seconds)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self.app_around_model.asgi(self.keys)


def build(config: ServeRewardConfig) -> Application:
    """What Ray Serve runs: `medrl serve-reward`, or `serve run serve.reward:build model=DIR`."""
    return RewardService.options(
        num_replicas=config.replicas,
        max_ongoing_requests=4 * config.max_requests,  # room for the replica to refuse by itself, as JSON
        max_queued_requests=4 * config.max_requests,  # beyond that Ray Serve says 503
        graceful_shutdown_timeout_s=config.drain_seconds,
        max_constructor_retry_count=1,  # a model that cannot be loaded now cannot be loaded a minute later
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    ).bind(config, load_keys(config))

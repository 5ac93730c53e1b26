"""What the keepers of a service ask it, below /admin."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve.errors import error_response
from serve.swap.gate import Gate


def version_routes(gate: Gate, conductor: DeploymentHandle | None) -> list[Route]:
    """GET /admin/version and POST /admin/swap."""

    async def version(_request: Request) -> Response:
        if conductor:
            return JSONResponse(await conductor.state.remote())
        assert gate.version
        return JSONResponse({"serving": {"version": gate.version.number, "checksum": gate.version.checksum}})

    async def swap(_request: Request) -> Response:
        if conductor is None:
            return error_response(409, "this service follows no registry")
        return JSONResponse(await conductor.swap_now.remote())

    return [Route("/admin/version", version, methods=["GET"]), Route("/admin/swap", swap, methods=["POST"])]

"""A plugin of vLLM that fails where it is told to, with the request's own words in the exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

IN_ENGINE, IN_HANDLER = "crash the engine", "crash the handler"
ENTRY_POINT = "[vllm.general_plugins]\ncrashing = tests.integration.crashing:register\n"


def install(folder: Path) -> None:
    """Make `folder`, once it is on PYTHONPATH, bring the plugin along."""
    info = folder / "crashing-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crashing\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)


def register() -> None:
    """Called by vLLM in each of its processes."""
    from vllm.renderers.online_renderer import OnlineRenderer
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    execute, render = WorkerWrapperBase.execute_model, OnlineRenderer.render_completion

    def failing_execute(self: Any, scheduled: Any, *rest: Any, **options: Any) -> Any:
        for new in scheduled.scheduled_new_reqs:
            if IN_ENGINE in (new.sampling_params.stop or ()):
                raise RuntimeError(f"cannot run {new.sampling_params.stop}")
        return execute(self, scheduled, *rest, **options)

    async def failing_render(self: Any, request: Any, *rest: Any, **options: Any) -> Any:
        if IN_HANDLER in str(request.prompt):
            raise RuntimeError(f"cannot render {request.prompt}")
        return await render(self, request, *rest, **options)

    WorkerWrapperBase.execute_model = failing_execute
    OnlineRenderer.render_completion = failing_render

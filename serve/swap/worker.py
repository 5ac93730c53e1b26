"""What vLLM's workers are given besides their own methods (`--worker-extension-cls`)."""

from __future__ import annotations

from typing import Any

from medrl.rollout.vllm_head import repack_head


class Loading:
    """Mixed into the worker of an engine."""

    def load_version(self: Any, path: str) -> None:
        """The weights in a directory take the place of those that are loaded."""
        self.reload_weights(weights_path=path)
        repack_head(self.get_model())

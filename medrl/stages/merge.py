"""`medrl merge`: an adapter and its base become one plain model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medrl.config.common import DType
from medrl.errors import AdapterError, ModelError


def run_merge(adapter: str, base: str | None, out: str, dtype: DType = "float32") -> dict[str, Any]:
    """Merge `adapter` into `base` (None: the base it names), write the model to `out`, print and return the checks.

    Raises AdapterError or ModelError; see `medrl.lora.merge.merge_adapter`.
    """
    if Path(out).exists():
        raise ModelError(f"{out} exists already", remedy="choose another --out or remove it")
    from medrl.lora.merge import merge_adapter

    report = merge_adapter(adapter, base or _named_base(adapter), out, dtype)
    for name, value in report.items():
        print(f"{name:>18}  {value:.3g}" if isinstance(value, float) else f"{name:>18}  {value}")
    print(f"merged model in {out}")
    return report


def _named_base(adapter: str) -> str:
    file = Path(adapter, "adapter_config.json")
    named = json.loads(file.read_text()).get("base_model_name_or_path") if file.is_file() else None
    if not named:
        raise AdapterError(f"the adapter in {adapter} names no base model", remedy="give --base")
    return named

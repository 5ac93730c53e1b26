"""The parameters that train: printed, saved with a checkpoint, checked whenever they could have changed (R5)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from medrl.errors import AdapterError

Row = dict[str, Any]  # {"name": "…q_proj.lora_A.default.weight", "shape": [8, 256], "dtype": "float32", "count": 2048}


def manifest(model: nn.Module) -> list[Row]:
    """One JSON-able row per trainable parameter, sorted by name. Shapes are the whole tensors' under ZeRO too."""
    rows = []
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            shape = list(getattr(parameter, "ds_shape", parameter.shape))
            count = 1
            for size in shape:
                count *= size
            rows.append(
                {"name": name, "shape": shape, "dtype": str(parameter.dtype).removeprefix("torch."), "count": count}
            )
    return rows


def check_manifest(model: nn.Module, rows: list[Row]) -> None:
    """AdapterError unless exactly the parameters of `rows` train, with their shapes and dtypes."""
    now, then = {row["name"]: row for row in manifest(model)}, {row["name"]: row for row in rows}
    problems = {
        "no longer trains": sorted(then.keys() - now.keys()),
        "trains now": sorted(now.keys() - then.keys()),
        "changed shape or dtype": sorted(name for name in now.keys() & then.keys() if now[name] != then[name]),
    }
    if any(problems.values()):
        raise AdapterError(
            "the trainable parameters are not those of the manifest",
            limit=f"{len(then)} parameters as recorded",
            got="; ".join(
                f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
                for what, names in problems.items()
                if names
            ),
            remedy="resume with the config the run was started with",
        )


def format_manifest(rows: list[Row]) -> str:
    """A text table, one line per kind of parameter (layer numbers as *)."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        name = re.sub(r"\.\d+(?=\.)", ".*", row["name"].removeprefix("base_model.model."))
        groups.setdefault((name, "×".join(map(str, row["shape"])), row["dtype"]), []).append(row["count"])
    lines = [("parameter", "shape", "dtype", "tensors", "numbers")]
    lines += [
        (name, shape, dtype, str(len(counts)), f"{sum(counts):,}") for (name, shape, dtype), counts in groups.items()
    ]
    lines.append(("total", "", "", str(len(rows)), f"{sum(row['count'] for row in rows):,}"))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )

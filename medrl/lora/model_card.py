"""The README.md of a merged model: names and numbers only, no text of any data set and no folder of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from medrl.config.manners import INTENDED_USE
from medrl.lora.identity import read_record

CARD_FILE = "README.md"


def model_card(base: str, adapter: Path, config: dict[str, Any], checks: dict[str, Any]) -> str:
    """Markdown with front matter: base, adapter (`config`: its adapter_config.json), the data and metrics of the run
    whose folder the adapter is in, the `checks` of the merge."""
    name = Path(base).name if Path(base).is_dir() else base
    run = _run_facts(adapter.resolve().parent)
    sections = {
        "Base": {"name": name, "sha256": (read_record(adapter) or {}).get("base_sha256") or "not recorded"},
        "Adapter": _adapter_facts(adapter, config),
        "Data": run["data"],
        "Metrics": run["metrics"],
        "Checks of the merge": checks,
    }
    head = yaml.safe_dump({"base_model": name, "library_name": "transformers", "tags": ["medrl", "lora", "merged"]},
                          sort_keys=False)
    parts = [f"---\n{head}---\n", f"# {name} with a LoRA adapter merged in\n",
             f"Made by `medrl merge`. Not validated for clinical use.\n\n## Intended use\n\n{INTENDED_USE}\n"]
    parts += [_table(title, rows) for title, rows in sections.items() if rows]
    return "\n".join(parts)


def _adapter_facts(adapter: Path, config: dict[str, Any]) -> dict[str, Any]:
    kind = "DoRA" if config.get("use_dora") else "rsLoRA" if config.get("use_rslora") else "LoRA"
    facts = {"kind": kind, "rank": config.get("r"), "alpha": config.get("lora_alpha")}
    if rows := (read_record(adapter) or {}).get("manifest"):
        facts["trained parameters"] = sum(row["count"] for row in rows)
    return facts


def _run_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """File names of the run's data, and the numbers in its report or summary; empty where there is no run."""
    config, report = _read(folder / "config.yaml"), _read(folder / "report.json") | _read(folder / "summary.json")
    files = {name: Path(value).name for name, value in (config.get("data") or {}).items()
             if isinstance(value, str) and Path(value).suffix}
    counts = {f"{name} rows": rows.get("used") for name, rows in (report.get("rows") or {}).items()}
    metrics = _numbers(report)
    for part in ("evaluation_before", "evaluation_after"):
        metrics |= {f"{part} {name}": value for name, value in _numbers(report.get(part) or {}).items()}
    return {"data": files | counts, "metrics": metrics}


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)
            and not isinstance(value, bool)}


def _table(title: str, rows: dict[str, Any]) -> str:
    shown = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in rows.items()}
    return f"## {title}\n\n| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in shown.items())

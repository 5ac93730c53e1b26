"""The Grafana dashboard and the guide name metrics that exist, and all of them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from ray.util.metrics import Histogram

from serve.metrics import ServiceMetrics

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "serve/grafana/medrl.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"\bray_\w+")


def ours() -> dict[str, bool]:
    """Names as a scrape shows them, and whether it is a histogram."""
    return {f"ray_{metric.info['name']}": isinstance(metric, Histogram) for metric in vars(ServiceMetrics()).values()}


def scraped() -> set[str]:
    """The names of all samples, as Ray exports them: vLLM's colons are underscores, its counters end in _total."""
    names = {f"{name}{end}" for name, histogram in ours().items()
             for end in (("_bucket", "_sum", "_count") if histogram else ("",))}
    vllm = importlib.util.find_spec("vllm")  # read, not imported: that takes seconds
    assert vllm and vllm.origin
    source = (Path(vllm.origin).parent / "v1/metrics/loggers.py").read_text(encoding="utf-8")
    for kind, name in re.findall(r"self\._(gauge|counter)_cls\(\s*name=\"vllm:(\w+)\"", source):
        names.add(f"ray_vllm_{name}{'_total' if kind == 'counter' else ''}")
    return names


def test_every_panel_reads_metrics_that_exist() -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    used = {name for expression in expressions for name in METRIC.findall(expression)}
    assert used <= scraped()
    assert {name.removesuffix("_bucket") for name in used} >= set(ours())


def test_panels_have_places_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(DASHBOARD["panels"])


def test_the_guide_names_every_metric() -> None:
    guide = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(ray_\w+)`", guide, re.M)) == set(ours())

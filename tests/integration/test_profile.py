"""Profiles of real steps: every worker is in them, at the time when the driver waited for it, and no text is."""

from __future__ import annotations

import gzip
import json
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import ray

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import ConfigError
from medrl.profile.recorder import Recorded
from medrl.timer import Timer
from tests.tiny import ppo_values

pytestmark = pytest.mark.ray
WORKERS = ["policy 0", "policy 1", "critic 0", "reference 0", "reward 0", "rollout 0", "rollout 1"]
HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def profile(ray_cluster, tiny_run: Path) -> Path:
    """The folder of steps 2 and 3; the table is in the file `printed` beside it."""
    from medrl.stages.ppo import run_ppo

    config = build_config(PpoConfig, ppo_values(
        tiny_run, name="profiled", steps=3, learner={"workers": 2}, rollout={"workers": 2},
        reference={"mode": "dedicated"}))
    with redirect_stdout(StringIO()) as printed:
        run_ppo(config, profile=range(2, 4))
    (tiny_run / "printed").write_text(printed.getvalue())
    return Path(config.run_dir) / "profile"


def rows(timeline: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Row title → (name, start, end) in µs."""
    events = json.loads(timeline.read_text())["traceEvents"]
    titles = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    shown: dict[str, list[tuple[str, float, float]]] = {title: [] for title in titles.values()}
    for e in events:
        if e["ph"] == "X":
            shown[titles[e["pid"], e["tid"]]].append((e["name"], e["ts"], e["ts"] + e["dur"]))
    return shown


def test_every_call_stands_within_a_phase_of_the_driver(profile: Path) -> None:
    shown = rows(profile / "timeline.json")
    loop = shown.pop("loop")
    waits = shown.pop("waits for")
    steps = [span for span in loop if span[0].startswith("step ")]
    phases = [span for span in loop if span not in steps]
    assert [name for name, _, _ in steps] == ["step 2", "step 3 (slowed: operators recorded)"]
    assert {name for name, _, _ in phases} == {"generate", "rest", "score", "update", "sync", "evaluate", "checkpoint"}
    assert list(shown) == WORKERS
    expected = {
        "generate": {"rollout 0 generate", "rollout 1 generate"},
        "rest": set(),
        "score": {"policy 0 logprobs", "policy 1 logprobs", "critic 0 values", "reference 0 logprobs",
                  "reward 0 score"},
        "update": {"policy 0 update", "policy 1 update", "critic 0 update"},
        "sync": {"policy 0 export_weights", "policy 1 export_weights", "rollout 0 receive", "rollout 1 receive"},
        "checkpoint": {"policy 0 save", "policy 1 save", "critic 0 save", "reference 0 canary"},
        "evaluate": {"rollout 0 generate", "rollout 1 generate", "reward 0 score"},
    }
    for _, begin, finish in steps:
        found: dict[str, set[str]] = {}
        for phase, start, end in phases:
            if begin <= start and end <= finish:
                inside = [(worker, call) for worker, calls in shown.items() for call in calls
                          if start <= call[1] <= call[2] <= end]
                found[phase] = found.get(phase, set()) | {f"{worker} {call[0]}" for worker, call in inside}
                for worker, call in inside:
                    shown[worker].remove(call)
        assert found == {phase: expected[phase] for phase in found}
    assert not any(shown.values())
    assert all(any(a <= start and end <= b for _, a, b in phases) for _, start, end in waits)


def test_every_worker_has_a_trace_with_its_calls_and_operators(profile: Path) -> None:
    traces = {path.name: json.loads(gzip.decompress(path.read_bytes())) for path in profile.glob("*.json.gz")}
    assert sorted(traces) == sorted(f"{worker.replace(' ', '-')}.json.gz" for worker in WORKERS)
    calls = {"policy": "update", "critic": "values", "reference": "logprobs", "reward": "score", "rollout": "generate"}
    for name, trace in traces.items():
        names = {event["name"] for event in trace["traceEvents"]}
        assert calls[name.split("-")[0]] in names and {"aten::linear", "aten::mm"} & names, name


def test_no_text_is_in_any_file(profile: Path, tiny_run: Path) -> None:
    prompts = [json.loads(line)["prompt"] for line in (tiny_run / "prompts.jsonl").read_text().splitlines()]
    words = {"感冒", "helps", *prompts}
    for path in profile.iterdir():
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = json.dumps(json.loads(data), ensure_ascii=False)
        assert len(text) > 1000 and not any(word in text for word in words), path


def test_the_table_names_every_worker(profile: Path, tiny_run: Path) -> None:
    printed = (tiny_run / "printed").read_text()
    assert "step 2: " in printed and "longest phase: " in printed and all(worker in printed for worker in WORKERS)
    assert str(profile / "timeline.json") in printed


def test_steps_that_will_not_come_are_refused_before_anything_is_written(ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    config = build_config(PpoConfig, ppo_values(tiny_run, name="short"))
    with pytest.raises(ConfigError, match="profile-steps 2"):
        run_ppo(config, profile=range(2, 4))
    assert not Path(config.run_dir).exists()


@ray.remote(num_cpus=0)
class Worker(Recorded):
    def work(self) -> None:
        time.sleep(0.01)

    def leave(self, boot_id: str) -> None:
        """Become a worker of another machine, whose clock goes an hour ahead."""
        from medrl.profile import recorder

        ours = time.time_ns
        time.time_ns = lambda: ours() + HOUR
        recorder.BOOT_ID = Path(boot_id)


class Workers:
    def __init__(self, *handles: Any) -> None:
        self.handles = handles

    def by_name(self) -> dict[str, Any]:
        return {f"reward {number}": handle for number, handle in enumerate(self.handles)}


def test_a_worker_that_is_lost_is_missing_and_another_clock_is_put_right(ray_cluster, tmp_path: Path) -> None:
    from medrl.workers.profiler import Profiler

    (tmp_path / "boot_id").write_text("elsewhere")
    workers: list[Any] = [Worker.remote() for _ in range(3)]
    near, far, lost = workers
    ray.get(far.leave.remote(str(tmp_path / "boot_id")), timeout=60)
    profiler, timer = Profiler(range(1, 3), tmp_path / "profile"), Timer()
    profiler.begin(1, Workers(*workers))  # type: ignore[arg-type]
    with timer("score"):
        ray.get([near.work.remote(), far.work.remote(), lost.work.remote()], timeout=60)
    ray.kill(lost)
    profiler.end(1, timer)
    shown = rows(tmp_path / "profile" / "timeline.json")
    titles = [title for title in shown if title.startswith("reward")]
    assert titles[0] == "reward 0" and titles[1].startswith("reward 1 (clock ± ") and len(titles) == 2
    (_, start, end), = (span for span in shown["loop"] if span[0] == "score")
    error = float(titles[1].split()[4]) * 1e3 + 10
    for title, slack in zip(titles, (0, error), strict=True):
        (name, a, b), = shown[title]
        assert name == "work" and start - slack <= a <= b <= end + slack and b - a >= 10_000

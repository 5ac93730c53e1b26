"""`medrl inspect`: the report against counts made another way, and the command itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medrl import cli
from medrl.config.common import LoraConfig
from medrl.config.inspect import inspect_config
from medrl.errors import AdapterError, ConfigError, ModelError
from medrl.inspect import inspect_model
from medrl.lora.overview import ranges
from medrl.lora.wrap import wrap
from tests.unit.lora.tiny_families import ALL, tiny_config, tiny_model

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
CASES = [(family, "causal") for family in ALL] + [
    (family, "scalar") for family in ("qwen3", "gpt2", "qwen3_next", "gemma3")
]
SHAPE_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "dtype": "bfloat16",
}


def report(path, targets=None, match=None, **values) -> dict:
    return inspect_model(inspect_config(str(path), targets, match, **values))


def config_dir(path: Path, family: str, **changes) -> Path:
    tiny_config(family, **changes).save_pretrained(path)
    return path


@pytest.mark.parametrize(("family", "task"), CASES)
def test_every_family_s_report_adds_up_to_the_real_model(family, task, tmp_path):
    found = report(config_dir(tmp_path, family), task=task)
    model = tiny_model(family, task)
    total = sum(p.numel() for p in model.parameters())
    assert found["parameters"]["total"] == total == sum(row["parameters"] for row in found["modules"])
    wrapped = wrap(model, LoraConfig(), task=task)
    trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert found["parameters"]["trainable"] == trainable == sum(row["trainable"] for row in found["modules"])
    assert {row["role"] for row in found["modules"] if row["trains"]} <= {
        "attention",
        "mlp",
        "linear-attention",
        "head",
    }
    assert {"attention", "embedding", "head"} <= {row["role"] for row in found["modules"]}


def test_rows_say_which_layers_train_and_what_peft_would_have_trained(tmp_path):
    found = report(config_dir(tmp_path, "llama", num_hidden_layers=6), ["model.layers.*.self_attn.q_proj"])
    rows = {(row["module"], row["layers"]): row for row in found["modules"]}
    q, v = (rows[f"model.layers.*.self_attn.{x}_proj", "0-5"] for x in "qv")
    assert (q["trains"], q["peft"], q["count"], q["trainable"]) == ("rank 16", True, 6, 6 * 16 * (32 + 32))
    assert (v["trains"], v["peft"], v["trainable"]) == ("", True, 0)
    assert found["peft_rule"] == {"names": ["q_proj", "v_proj"], "modules": 12, "only_peft": 6, "only_here": 0}
    assert report(config_dir(tmp_path, "qwen3_5_text"))["peft_rule"]["names"] is None


def test_a_stage_s_config_brings_its_model_its_dtype_and_its_lora_section(tmp_path):
    config_dir(tmp_path / "model", "llama", num_hidden_layers=6)
    file = tmp_path / "sft.yaml"
    lora = "lora: {targets: [mlp], rank: 2, layers: 1-3, ranks: {model.layers.2.mlp.up_proj: 8}, init: pissa}"
    file.write_text(f"name: x\nmodel: {{path: {tmp_path / 'model'}, dtype: bfloat16}}\n{lora}\nscaling: 7\n")
    found = report(file)
    trains = {(row["module"], row["layers"], row["trains"]) for row in found["modules"] if row["trains"]}
    mlp = "model.layers.*.mlp."
    assert trains == {
        (mlp + "gate_proj", "1-3", "rank 2"),
        (mlp + "down_proj", "1-3", "rank 2"),
        (mlp + "up_proj", "1,3", "rank 2"),
        (mlp + "up_proj", "2", "rank 8"),
    }
    assert found["memory"]["dtype"] == "bfloat16"
    both = {row["role"] for row in report(file, ["attention", "mlp"])["modules"] if row["trains"]}
    assert both == {"attention", "mlp"}


def test_a_config_without_a_lora_section_trains_in_full(tmp_path):
    config_dir(tmp_path / "model", "gpt2")
    (tmp_path / "sft.yml").write_text(f"model: {{path: {tmp_path / 'model'}}}\n")
    found = report(tmp_path / "sft.yml")
    assert found["lora"] is None and found["parameters"]["percent"] == 100
    assert found["memory"]["gradients"] == 4 * found["parameters"]["total"]


def test_work_of_a_step_by_hand(tmp_path):
    config = config_dir(tmp_path, "llama", num_hidden_layers=6)  # hidden 32, MLP 48, 4 heads and 2 for keys, V 97
    found = report(config, ["model.layers.*.self_attn.q_proj"], batch=2, length=10)["work"]
    layer, adapter = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48, 6 * 16 * (32 + 32)
    layers, attention, head = 2 * 6 * layer * 20, 4 * 6 * 32 * 2 * 100 / 2, 2 * 32 * 97 * 20
    assert found["forward_flops"] == layers + attention + head
    training = 2 * layers + 3 * attention + 2 * head + 6 * adapter * 20
    assert found["training_flops"] == training
    assert found["training_flops_with_checkpointing"] == training + layers + attention + 2 * adapter * 20
    assert (found["sync_bytes"], found["optimizer_bytes"]) == (4 * adapter, 28 * adapter)
    (tmp_path / "full.yaml").write_text(f"model: {{path: {config}, dtype: bfloat16}}\n")
    full = report(tmp_path / "full.yaml")
    assert full["work"]["sync_bytes"] == 2 * full["parameters"]["total"]


def test_notes_name_tied_embeddings_fused_experts_and_towers(tmp_path):
    assert "one tensor" in " ".join(report(config_dir(tmp_path / "a", "gemma"))["notes"])
    assert "fused" in " ".join(report(config_dir(tmp_path / "b", "mixtral"))["notes"])
    assert "model.vision_tower, model.multi_modal_projector: outside" in " ".join(
        report(config_dir(tmp_path / "c", "llava"))["notes"]
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"targets": ["attentoin"]}, AdapterError, "matches no module"),
        ({"targets": ["linear-attention"]}, AdapterError, "no module for the role"),
        ({"targets": ["("], "match": "regex"}, AdapterError, "not a regular expression"),
        ({"batch": 0}, ConfigError, "batch"),
    ],
)
def test_a_broken_rule_is_a_typed_error(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        report(config_dir(tmp_path, "llama"), **arguments)


def test_a_setting_that_experts_cannot_have_is_found_without_weights(tmp_path):
    file = tmp_path / "sft.yaml"
    config_dir(tmp_path / "model", "mixtral")
    file.write_text(f"model: {{path: {tmp_path / 'model'}}}\nlora: {{targets: [experts], init: pissa}}\n")
    with pytest.raises(AdapterError, match="as a tensor"):
        report(file)


def test_what_is_no_model_is_a_typed_error(tmp_path):
    def written(**values) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(values))
        return tmp_path

    with pytest.raises(ModelError, match="no model at"):
        report("nobody/nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        report(written(model_type="from_the_future"))
    with pytest.raises(ModelError, match="no language model"):
        report(written(model_type="vit"))
    with pytest.raises(ModelError, match="no sequence-classification"):
        report(written(model_type="granite"), task="scalar")
    with pytest.raises(ModelError, match="cannot build|cannot be read"):
        report(written(model_type="llama", hidden_size=30, num_attention_heads=0))
    with pytest.raises(ConfigError, match="neither a config nor a model"):
        report(tmp_path / "config.json")


def test_the_command_prints_one_json_document_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    config_dir(tmp_path, "llama")
    with pytest.raises(SystemExit) as caught:
        cli.main(["inspect", str(tmp_path), "--targets", "mlp", "--length", "64", "--dry-run", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert caught.value.code == 0
    assert (found["lora"]["targets"], found["memory"]["length"]) == (["mlp"], 64)
    assert "all 6 trainable tensors" in found["notes"][-1]


def test_a_broken_rule_exits_2_with_the_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["inspect", str(config_dir(tmp_path, "llama")), "--targets", "q_prj", "--match", "suffix"])
    assert caught.value.code == 2
    assert "model.layers.*.self_attn.q_proj" in capsys.readouterr().err


@pytest.mark.slow
def test_a_70b_shape_takes_little_memory_and_gives_a_dozen_rows(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE_70B))
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom medrl.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        # Not ru_maxrss: a child starts with its parent's.
        "finally:\n    peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())\n"
        "    print(int(peak[1]) * 1024, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, "inspect", str(tmp_path)]
    environment = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 2 * 2**30
    rows = [line for line in done.stdout.splitlines() if "0-79" in line]
    assert len(rows) == 9 and "70,553,706,496" in done.stdout and "PEFT's own rule for llama" in done.stdout


def test_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8" and ranges([]) == "" and ranges([3]) == "3"

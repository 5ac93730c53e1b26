"""What is registered of a model, and what cannot be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from medrl.errors import DataError, MedrlError, ModelError, RegistryError
from medrl.lora.identity import model_hash
from medrl.registry.lineage import describe, find_evaluation, find_model
from tests.tiny import save_reward_model

pytestmark = pytest.mark.heavy


def pipeline(folder: Path, *links: str) -> Path:
    (folder / "pipeline.json").write_text(json.dumps({name: {"finished": True} for name in links}))
    return folder


def test_a_record_says_where_the_model_comes_from(trained: Path, run: Path, evaluate) -> None:
    record = describe(run / "merged", evaluate(run))
    assert record.base == str(trained / "base") and record.base_hash == model_hash(trained / "base")
    assert record.run == str(run) and record.adapter == str(run / "adapter")
    assert record.adapter_hash == hashlib.sha256((run / "adapter/adapter_model.safetensors").read_bytes()).hexdigest()
    assert record.data.keys() == {"prompts"}  # the other one is no file here
    assert record.checksum == model_hash(run / "merged") != record.base_hash
    template = AutoTokenizer.from_pretrained(run / "merged").chat_template
    assert record.template_hash == hashlib.sha256(template.encode()).hexdigest()
    assert record.merged and record.merge is not None and record.merge["merge_gap"] <= 1e-4
    assert record.evaluation is not None and record.evaluation.results[0].value == 1.0
    assert "patient" not in record.model_dump_json() and "cold" not in record.model_dump_json()


def test_other_data_has_another_hash(trained: Path, run: Path, tmp_path: Path) -> None:
    before = describe(run / "merged").data
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "another"}\n')
    text = (run / "config.yaml").read_text().replace(str(trained / "prompts.jsonl"), str(tmp_path / "prompts.jsonl"))
    (run / "config.yaml").write_text(text)
    assert describe(run / "merged").data != before


def test_the_run_is_found_by_its_adapter_wherever_the_merged_model_lies(run: Path, tmp_path: Path) -> None:
    merged = Path(shutil.move(run / "merged", tmp_path / "link"))
    assert describe(merged).run == str(run)
    elsewhere = Path(shutil.move(merged, tmp_path / "far/away/model"))
    assert describe(elsewhere).run is None
    assert describe(elsewhere, run=run).run == str(run)
    (run / "adapter/adapter_model.safetensors").write_bytes(b"retrained")
    with pytest.raises(RegistryError, match="not merged from an adapter"):
        describe(elsewhere, run=run)


def test_a_model_trained_in_full_needs_no_merge(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "base", tmp_path / "sft/model")
    (tmp_path / "sft/config.yaml").write_text(f"model: {{path: {trained / 'base'}}}\nlora: null\ndata: {{}}\n")
    record = describe(find_model(tmp_path / "sft"))
    assert not record.merged and record.merge is None and record.adapter is None
    assert record.base_hash == model_hash(trained / "base") and record.run == str(tmp_path / "sft")
    assert describe(trained / "base").merged  # of unknown origin: the gate asks for the proof of a merge


def test_the_model_of_a_run_and_of_a_pipeline(trained: Path, run: Path, tmp_path: Path) -> None:
    assert find_model(run) == run / "merged" == find_model(run / "merged")
    save_reward_model(tmp_path / "reward/merged")
    (tmp_path / "report").mkdir()
    assert find_model(pipeline(tmp_path, "ppo", "reward", "report")) == run / "merged"
    shutil.copytree(trained / "base", tmp_path / "link")
    assert find_model(pipeline(tmp_path, "ppo", "link", "report")) == tmp_path / "link"
    shutil.rmtree(run / "merged")
    with pytest.raises(RegistryError, match="no merged model"):
        find_model(pipeline(tmp_path, "link", "ppo"))
    with pytest.raises(RegistryError, match="no model in"):
        find_model(pipeline(tmp_path, "report"))
    with pytest.raises(ModelError, match="is a reward model"):
        describe(tmp_path / "reward/merged")


def truncate(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def beside_an_adapter(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {f"{name}.lora_A.default.weight": tensors[name].copy()}, model / "model.safetensors")


def with_an_index_of_more(model: Path) -> None:
    names = [*load_file(model / "model.safetensors"), "more"]
    weights = dict.fromkeys(names, "model.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


@pytest.mark.parametrize(("damage", "message"), [
    (lambda m: (m / "model.safetensors").unlink(), "no complete weights"), (truncate, "cannot be read"),
    (beside_an_adapter, "an adapter beside them"), (with_an_index_of_more, "not those of its index"),
    (lambda m: (m / "chat_template.jinja").unlink(), "no chat template"),
    (lambda m: (m / "chat_template.jinja").write_text("x"), "not the one the model was trained with"),
    (lambda m: [f.unlink() for f in m.glob("tokenizer*")], "no tokenizer"),
    (lambda m: (m / "merge.json").write_text("{"), "not valid JSON"),
])
def test_an_incomplete_model_is_refused(run: Path, damage, message: str) -> None:
    damage(run / "merged")
    with pytest.raises(ModelError, match=message):
        describe(run / "merged")


def test_only_the_evaluation_of_this_model_counts(run: Path, evaluate) -> None:
    assert find_evaluation(run, run / "merged") is None
    file = evaluate(run)
    assert find_evaluation(run, run / "merged") == file
    assert find_evaluation(pipeline(run.parent, "ppo"), run / "merged") == file
    shutil.copytree(run, run.with_name("ppo.1"))  # an earlier result, moved aside by the pipeline
    assert find_evaluation(run.parent, run / "merged") == file
    other = json.loads(file.read_text()) | {"model": str(run / "adapter"), "model_sha256": "0" * 64}
    (run / "adapter/evaluation.json").write_text(json.dumps(other))
    pipeline(run, "adapter")
    assert find_evaluation(run, run / "merged") == file
    with pytest.raises(RegistryError, match="of another model"):
        describe(run / "merged", run / "adapter/evaluation.json")
    shutil.copy(file, run / "adapter/evaluation.json")
    with pytest.raises(RegistryError, match="several evaluations"):
        find_evaluation(run, run / "merged")


def test_an_evaluation_of_other_weights_in_the_same_place_is_refused(run: Path, evaluate) -> None:
    file, weights = evaluate(run), run / "merged/model.safetensors"
    before = weights.stat()
    save_file({name: tensor * 1.001 for name, tensor in load_file(weights).items()}, weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))  # no time says so
    assert find_evaluation(run, run / "merged") == file
    with pytest.raises(RegistryError, match="of other weights") as caught:
        describe(run / "merged", file)
    assert model_hash(run / "merged") in caught.value.limit


def test_an_evaluation_goes_with_the_weights_wherever_they_are(run: Path, evaluate) -> None:
    file = evaluate(run)
    merged = Path(shutil.move(run / "merged", run / "elsewhere"))
    assert find_evaluation(run, merged) == file
    assert describe(merged, file).evaluation is not None


@pytest.mark.parametrize("text", ["{", '{"model": "my patient X"}', '{"results": "my patient X"}', "[]"])
def test_a_bad_evaluation_is_refused_without_quoting_it(run: Path, text: str) -> None:
    (run / "e.json").write_text(text)
    with pytest.raises(DataError) as caught:
        describe(run / "merged", run / "e.json")
    assert isinstance(caught.value, MedrlError) and "patient" not in str(caught.value)

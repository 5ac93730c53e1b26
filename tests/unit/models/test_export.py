from __future__ import annotations

import pytest
import torch

from medrl.config.common import ModelConfig
from medrl.errors import ModelError
from medrl.models.export import atomic_dir, load_calibration, save_calibration, save_model
from medrl.models.loading import load_causal_lm, load_tokenizer


def test_a_saved_model_loads_back_bit_for_bit(model_dir, tmp_path):
    source = ModelConfig(path=str(model_dir("qwen3")))
    model, tokenizer = load_causal_lm(source), load_tokenizer(source)
    save_model(model, tokenizer, tmp_path / "out")
    again = load_causal_lm(ModelConfig(path=str(tmp_path / "out")))
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert load_tokenizer(ModelConfig(path=str(tmp_path / "out"))).chat_template == tokenizer.chat_template
    assert '"use_cache": true' in (tmp_path / "out/config.json").read_text()
    assert model.config.use_cache is False
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="disk"), atomic_dir(tmp_path / "out") as work:
        (work / "half").write_text("x")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"), atomic_dir(tmp_path / "out"):
        pytest.fail("the block ran")


def test_replacing_is_all_or_nothing(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_dir(out, replace=True):
        raise RuntimeError
    assert (out / "old").read_text() == "old"
    with atomic_dir(out, replace=True) as work:
        (work / "new").write_text("new")
    assert [p.name for p in out.iterdir()] == ["new"] and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_calibration_round_trip_and_absence(tmp_path):
    assert load_calibration(tmp_path) is None
    save_calibration(tmp_path, -0.25, 1.5)
    assert load_calibration(tmp_path) == (-0.25, 1.5)


@pytest.mark.parametrize("text", ["{", '{"mean": 1}', '{"mean": 0, "std": 0}', '{"mean": 0, "std": NaN}'])
def test_a_damaged_calibration_is_refused(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ModelError):
        load_calibration(tmp_path)

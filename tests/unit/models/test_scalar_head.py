from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from medrl.algo.masking import position_ids
from medrl.errors import ModelError
from medrl.models.scalar_head import ScalarModel, last_token_scores


def batch(vocab: int):
    ids = torch.randint(3, vocab, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5, [1] * 7 + [0] * 2])
    return ids * mask, mask


def scores(model: ScalarModel, ids, mask):
    return last_token_scores(model(ids, mask, position_ids(mask)), mask)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "mixtral", "gpt_neox"])
def test_from_reward_scores_as_transformers_does(family, model_dir):
    path = model_dir(family, "scalar")
    official = AutoModelForSequenceClassification.from_pretrained(path).eval()
    ids, mask = batch(official.config.vocab_size)
    expected = official(input_ids=ids, attention_mask=mask).logits[:, 0]
    model = ScalarModel.from_reward(str(path), "float32")
    torch.testing.assert_close(scores(model, ids, mask), expected, atol=1e-5, rtol=1e-5)
    assert not model.training


def test_the_last_token_is_found_by_the_mask_even_when_it_is_the_pad_token(model_dir):
    """transformers looks for the last id that is not the pad id, and scores one token too early here."""
    path = model_dir("qwen3", "scalar")
    official = AutoModelForSequenceClassification.from_pretrained(path).eval()
    model = ScalarModel.from_reward(str(path), "float32")
    ids = torch.tensor([[5, 6, 7, official.config.pad_token_id]])
    mask = torch.ones_like(ids)
    at_end = model(ids, mask, position_ids(mask))
    assert scores(model, ids, mask)[0] == at_end[0, -1]
    assert official(input_ids=ids, attention_mask=mask).logits[0, 0].item() == pytest.approx(
        at_end[0, -2].item(), abs=1e-6
    )


def test_calibration_is_folded_into_the_head(model_dir):
    path = str(model_dir("qwen3", "scalar"))
    raw = ScalarModel.from_reward(path, "float32")
    calibrated = ScalarModel.from_reward(path, "float32", calibration=(0.3, 2.5))
    ids, mask = batch(raw.config.vocab_size)
    torch.testing.assert_close(scores(calibrated, ids, mask), (scores(raw, ids, mask) - 0.3) / 2.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_from_causal_starts_at_zero_everywhere_and_can_learn(model_dir, dtype):
    model = ScalarModel.from_causal(str(model_dir("llama")), dtype)
    ids, mask = batch(90)
    scalars = model(ids, mask, position_ids(mask))
    assert scalars.shape == ids.shape and scalars.dtype == torch.float32
    assert scalars.abs().max() == 0
    scalars.sum().backward()
    assert model.head.weight.grad.abs().max() > 0 and model.head.bias.grad.item() == ids.numel()


def test_causal_trunk_is_the_checkpoint_s(model_dir):
    path = model_dir("qwen3")
    model = ScalarModel.from_causal(str(path), "float32")
    saved = load_file(path / "model.safetensors")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, saved[f"model.{name}"])


def test_a_checkpoint_without_a_head_is_refused(model_dir):
    with pytest.raises(ModelError, match="would start at random") as error:
        ScalarModel.from_reward(str(model_dir("qwen3")), "float32")
    assert "score.weight" in error.value.got


def test_two_labels_are_refused(model_dir):
    with pytest.raises(ModelError, match="not a reward model"):
        ScalarModel.from_reward(str(model_dir("llama", "scalar", num_labels=2)), "float32")


def test_a_missing_layer_is_refused(model_dir, tmp_path):
    path = model_dir("qwen3", "scalar")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="start at random"):
        ScalarModel.from_causal(str(tmp_path), "float32")


def test_last_token_scores_on_either_side():
    scalars = torch.arange(8.0).view(2, 4)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert last_token_scores(scalars, mask).tolist() == [1.0, 7.0]

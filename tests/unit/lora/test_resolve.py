from __future__ import annotations

import re

import pytest

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError
from medrl.lora.matching import exact_regex
from medrl.lora.resolve import resolve
from medrl.models.scalar_head import ScalarModel
from tests.unit.lora.tiny_families import tiny_model


def lora(*targets, **values):
    return LoraConfig(targets=list(targets), **values)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama", num_hidden_layers=4)


Q = [f"model.layers.{i}.self_attn.q_proj" for i in range(4)]


@pytest.mark.parametrize(
    "pattern,mode,expected",
    [
        ("model.layers.*.self_attn.q_proj", "exact", Q),
        ("model.layers.2.self_attn.q_proj", "exact", Q[2:3]),
        ("q_proj", "suffix", Q),
        ("self_attn.q_proj", "suffix", Q),
        (r".*\.[13]\..*\.q_proj", "regex", [Q[1], Q[3]]),
        ("model.layers.1.self_attn", "subtree", [f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"]),
    ],
)
def test_match_modes(llama, pattern, mode, expected):
    targets = resolve(llama, lora(pattern, match=mode))
    assert list(targets.modules) == expected
    assert {n for n, _ in llama.named_modules() if re.fullmatch(exact_regex(expected), n)} == set(expected)


def test_one_unmatched_pattern_among_good_ones_is_an_error_with_the_nearest_name(llama):
    with pytest.raises(AdapterError, match="'q_prj' matches no module") as error:
        resolve(llama, lora("k_proj", "q_prj", match="suffix"))
    assert "model.layers.*.self_attn.q_proj" in error.value.remedy


@pytest.mark.parametrize("field", ["freeze", "modules_to_save"])
def test_an_unmatched_freeze_or_save_pattern_is_an_error(llama, field):
    with pytest.raises(AdapterError, match=f"lora.{field}: 'model.layers.*.nothing' matches no module"):
        resolve(llama, lora("all-linear", **{field: ["model.layers.*.nothing"]}))


def test_a_role_the_model_lacks_is_an_error_that_lists_its_roles(llama):
    with pytest.raises(AdapterError, match="linear-attention") as error:
        resolve(llama, lora("attention", "linear-attention"))
    assert "attention, mlp" in error.value.limit


def test_a_pattern_that_means_only_containers_is_an_error(llama):
    with pytest.raises(AdapterError, match="cannot adapt") as error:
        resolve(llama, lora("model.layers.*.self_attn"))
    assert "subtree" in error.value.remedy


def test_layers_and_freeze_keep_modules_untouched(llama):
    targets = resolve(
        llama,
        lora("attention", layers="1-3", freeze=["model.layers.*.self_attn.v_proj", "model.layers.2.self_attn.q_proj"]),
    )
    assert set(targets.modules) == {f"model.layers.{i}.self_attn.{x}_proj" for i in (1, 2, 3) for x in "qko"} - {Q[2]}


def test_freezing_what_layers_leaves_out_anyway_is_fine(llama):
    targets = resolve(llama, lora("attention", layers="3", freeze=["model.layers.0.self_attn.q_proj"]))
    assert len(targets.modules) == 4


def test_a_freeze_pattern_that_keeps_nothing_is_an_error(llama):
    """`model.layers.0` in exact mode names the layer, which gets no adapter itself: nothing would be frozen."""
    with pytest.raises(AdapterError, match="lora.freeze"):
        resolve(llama, lora("all-linear", freeze=["model.layers.0"]))


def test_nothing_left_is_an_error(llama):
    with pytest.raises(AdapterError, match="leave nothing"):
        resolve(llama, lora(Q[0], layers="1-3"))


def test_layers_beyond_the_model_are_an_error(llama):
    with pytest.raises(AdapterError, match="does not have") as error:
        resolve(llama, lora("all-linear", layers="2-7"))
    assert error.value.limit == "0 to 3"


def test_a_module_outside_the_layers_ignores_the_layer_choice(llama):
    assert resolve(llama, lora("attention", "lm_head", layers="0")).modules[-1] == "lm_head"


def test_a_module_cannot_be_adapted_and_saved(llama):
    with pytest.raises(AdapterError, match="both"):
        resolve(llama, lora("all-linear", modules_to_save=["model.layers.0.self_attn.q_proj"]))


def test_freezing_a_saved_module_is_a_contradiction(llama):
    with pytest.raises(AdapterError, match="same module"):
        resolve(llama, lora("all-linear", modules_to_save=["lm_head"], freeze=["lm_head"]))


def test_a_saved_subtree_is_saved_once_as_a_whole(llama):
    targets = resolve(llama, lora("attention", modules_to_save=["model.layers.0.mlp"], match="subtree"))
    assert targets.save == ("model.layers.0.mlp",)


def test_a_scalar_model_always_saves_its_head():
    classifier = tiny_model("qwen3", task="scalar")
    assert resolve(classifier, lora("attention"), task="scalar").save == ("score",)
    scalar = ScalarModel(classifier.base_model, classifier.score)
    assert resolve(scalar, lora("attention"), task="scalar").modules[0] == "backbone.layers.0.self_attn.q_proj"


def test_embeddings_are_adapted_only_when_named_themselves(llama):
    assert "model.embed_tokens" not in resolve(llama, lora("model", match="subtree")).modules
    assert resolve(llama, lora("model.embed_tokens")).modules == ("model.embed_tokens",)

"""Over generated module trees: we train exactly what was meant, or say before wrapping that PEFT would not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError, AmbiguousModuleError
from medrl.lora.wrap import wrap

names = st.sampled_from(["model", "img_model", "layers", "0", "1", "q_proj", "proj", "score", "sub_score"])
trees = st.recursive(
    st.just(None), lambda inner: st.dictionaries(names, inner, min_size=1, max_size=4), max_leaves=10
).filter(bool)


class Tree(nn.Module):
    """Nested dictionaries as modules, a Linear at every leaf."""

    def __init__(self, tree: dict) -> None:
        super().__init__()
        for name, below in tree.items():
            self.add_module(name, nn.Linear(2, 2) if below is None else Tree(below))

    def prepare_inputs_for_generation(self):
        """PEFT asks a language model for it."""


def leaves(tree: dict, above: str = "") -> list[str]:
    return [
        leaf
        for name, below in tree.items()
        for leaf in ([above + name] if below is None else leaves(below, f"{above}{name}."))
    ]


@settings(max_examples=40)
@given(trees, st.data())
def test_what_trains_is_what_was_meant_or_nothing_is_wrapped(tree, data):
    every = leaves(tree)
    target = data.draw(st.sampled_from(every))
    saved = data.draw(st.none() | st.sampled_from(every))
    model = Tree(tree)
    before = [name for name, _ in model.named_modules()]
    config = LoraConfig(rank=1, targets=[target], modules_to_save=[saved] if saved else [])
    try:
        wrapped = wrap(model, config)
    except AdapterError as error:
        # Legitimate reasons only: the same module twice, or PEFT's suffix rules, by our own reading of them.
        if isinstance(error, AmbiguousModuleError):
            assert saved and (sum(name.endswith(saved) for name in before) > 1 or f".{target}.".find(f".{saved}.") >= 0)
        else:
            assert saved == target
        assert [name for name, _ in model.named_modules()] == before
        return
    trained = {name.removeprefix("base_model.model.") for name, p in wrapped.named_parameters() if p.requires_grad}
    expected = {f"{target}.lora_{side}.default.weight" for side in "AB"}
    expected |= {f"{saved}.modules_to_save.default.{x}" for x in ("weight", "bias")} if saved else set()
    assert trained == expected

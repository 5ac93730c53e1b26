"""Over generated module trees: we train exactly what was meant, or say before wrapping that PEFT would not.

The oracle below reads names as lists of segments; it knows no regular expressions and none of medrl's code.
"""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import nn

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError, AmbiguousModuleError
from medrl.lora.resolve import resolve
from medrl.lora.wrap import wrap

pytestmark = pytest.mark.heavy

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


# Models with a decoder stack, beside towers and heads whose names end alike.

BLOCK = {
    "self_attn": {"q_proj": None, "proj": None},
    "mlp": {"q_proj": None, "up_proj": None},
    "mlp2": {"up_proj": None},
}
OTHERS = {"score": None, "sub_score": None, "lm_head": {"proj": None}}


@st.composite
def models(draw) -> dict:
    def stack():
        keys = draw(st.sets(st.sampled_from(sorted(BLOCK)), min_size=1))
        return {"layers": {str(i): {key: BLOCK[key] for key in sorted(keys)} for i in range(draw(st.integers(1, 3)))}}

    tree = {"model": stack()}
    if draw(st.booleans()):
        tree["img_model"] = stack()
    if draw(st.booleans()):
        tree["vision"] = {"model": stack()}
    return tree | {key: OTHERS[key] for key in sorted(draw(st.sets(st.sampled_from(sorted(OTHERS)))))}


def all_names(tree: dict, above: str = "") -> list[str]:
    return [
        found
        for name, below in tree.items()
        for found in (above + name, *(all_names(below, f"{above}{name}.") if below else ()))
    ]


@st.composite
def patterns(draw, names: list[str], mode: str) -> tuple:
    """(a pattern for medrl, the same for the oracle): segments, of which "*" is a number and a set is a choice."""
    path = draw(st.sampled_from(names)).split(".")
    if draw(st.integers(0, 29)) == 0:
        path[-1] = "absent"
    if mode == "regex":
        choices = [sorted({part, draw(st.sampled_from(path)), draw(st.sampled_from("01"))}) for part in path]
        return r"\.".join(f"({'|'.join(choice)})" for choice in choices), [set(choice) for choice in choices]
    if draw(st.booleans()):
        path = ["*" if part.isdigit() else part for part in path]
    if mode == "suffix":
        path = path[draw(st.integers(0, len(path) - 1)) :]
    return ".".join(path), path


def means(path: list, mode: str, name: str) -> bool:
    def fits(parts: list[str]) -> bool:
        return len(parts) == len(path) and all(
            part in want if isinstance(want, set) else part == want or (want == "*" and part.isdigit())
            for part, want in zip(parts, path, strict=True)
        )

    parts = name.split(".")
    if mode == "suffix":
        return fits(parts[-len(path) :])
    return fits(parts[: len(path)]) if mode == "subtree" else fits(parts)


def below(name: str, outer: str) -> bool:
    return name.split(".")[: outer.count(".") + 1] == outer.split(".")


def expected(tree: dict, mode: str, targets, freeze, save, layers) -> tuple[list[str], list[str]] | None:
    """(adapted, saved whole), or None where an error is due."""
    names, linear = all_names(tree), leaves(tree)

    def meant(patterns, among):
        hits = [{name for name in among if means(path, mode, name)} for _, path in patterns]
        return None if any(not hit for hit in hits) else set().union(*hits)

    wanted, whole = meant(targets, linear), meant(save, names)
    if wanted is None or whole is None:
        return None
    whole = {name for name in whole if not any(below(name, other) and name != other for other in whole)}
    kept = meant(freeze, wanted | whole)
    if kept is None or kept & whole or any(below(name, outer) for name in wanted for outer in whole):
        return None
    if layers is not None:
        first, last = layers
        if not first <= last < len(tree["model"]["layers"]):
            return None
        stack = {name: int(name.split(".")[2]) for name in wanted if name.startswith("model.layers.")}
        kept |= {name for name, number in stack.items() if not first <= number <= last}
    chosen = wanted - kept
    return ([n for n in names if n in chosen], [n for n in names if n in whole]) if chosen else None


def peft_disagrees(tree: dict, adapted: list[str], whole: list[str]) -> bool:
    """PEFT saves what ends like a name of modules_to_save, and adapts nothing with such a name anywhere in its path."""
    more = [name for name in all_names(tree) if name not in whole and any(name.endswith(end) for end in whole)]
    return bool(more) or any(f".{end}." in f".{name}." for name in adapted for end in whole)


def build(tree: dict) -> Tree:
    model = Tree(tree)
    for name in all_names(tree):
        if name.endswith("layers"):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, nn.ModuleList(model.get_submodule(name).children()))
    return model


@settings(max_examples=200)
@given(st.data(), models(), st.sampled_from(["exact", "subtree", "regex", "suffix"]))
def test_what_trains_is_what_the_oracle_says(data, tree, mode):

    def draw(names, counts):
        count = data.draw(st.sampled_from(counts))
        return [data.draw(patterns(names, mode)) for _ in range(count)]

    linear = leaves(tree)
    targets = draw(all_names(tree) if mode == "subtree" else linear, (1, 2, 3))
    meant = [name for name in linear if any(means(path, mode, name) for _, path in targets)]
    freeze, save = draw(meant or linear, (0, 0, 0, 1)), draw(all_names(tree), (0, 1))
    layers = data.draw(st.sampled_from([None, None, None, (0, 0), (0, 1), (1, 2), (1, 0)]))
    lora = LoraConfig(
        rank=1,
        match=mode,
        targets=[text for text, _ in targets],
        freeze=[text for text, _ in freeze],
        modules_to_save=[text for text, _ in save],
        layers=layers and f"{layers[0]}-{layers[1]}",
    )
    oracle = expected(tree, mode, targets, freeze, save, layers)
    model = build(tree)
    before = {name: (p, p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    structure = [(name, type(module)) for name, module in model.named_modules()]
    try:
        found = resolve(model, lora)
        assert oracle == (list(found.modules), list(found.save))
        wrapped = wrap(model, lora)
    except AdapterError as error:
        event(f"{type(error).__name__}, {mode}")
        if oracle is None:
            assert not isinstance(error, AmbiguousModuleError)
        else:
            assert isinstance(error, AmbiguousModuleError) and peft_disagrees(tree, *oracle)
        after = dict(model.named_parameters())
        assert after.keys() == before.keys()
        assert all(after[n] is p and p.requires_grad == flag and p.equal(old) for n, (p, flag, old) in before.items())
        assert [(name, type(module)) for name, module in model.named_modules()] == structure
        return
    event(f"wrapped, {mode}")
    assert oracle is not None and not peft_disagrees(tree, *oracle)
    trained = {name.removeprefix("base_model.model.") for name, p in wrapped.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.lora_{side}.default.weight" for name in oracle[0] for side in "AB"} | {
        f"{whole}.modules_to_save.default{name.removeprefix(whole)}"
        for whole in oracle[1]
        for name in before
        if below(name, whole)
    }

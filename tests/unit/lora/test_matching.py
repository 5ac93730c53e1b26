from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.errors import AdapterError
from medrl.lora.matching import exact_regex, matcher, nearest, parse_layers

segment = st.sampled_from(
    ["model", "img_model", "layers", "0", "1", "11", "q_proj", "proj", "score", "sub_score", "a-b", "x+"]
)
name = st.lists(segment, min_size=1, max_size=5).map(".".join)
pattern = st.lists(st.one_of(segment, st.just("*")), min_size=1, max_size=4).map(".".join)


def oracle(pattern: str, mode: str, name: str) -> bool:
    """Segment by segment, no regular expressions."""
    p, n = pattern.split("."), name.split(".")
    same = lambda a, b: len(a) == len(b) and all(x == y or (x == "*" and y.isdigit()) for x, y in zip(a, b))  # noqa: B905, E731
    return {"exact": same(p, n), "subtree": same(p, n[: len(p)]), "suffix": same(p, n[-len(p) :])}[mode]


@given(pattern, st.sampled_from(["exact", "subtree", "suffix"]), st.lists(name, max_size=20))
def test_matcher_equals_the_brute_force_oracle(pattern, mode, names):
    matches = matcher(pattern, mode)
    assert [n for n in names if matches(n)] == [n for n in names if oracle(pattern, mode, n)]


@given(st.lists(name, min_size=1, max_size=12, unique=True), st.lists(name, max_size=12))
def test_the_exact_regex_matches_its_names_and_no_other(names, others):
    regex = exact_regex(names)
    for candidate in names + others:
        assert bool(re.fullmatch(regex, candidate)) == (candidate in names)


def test_regex_mode_is_a_full_match():
    matches = matcher(r"model\.layers\.\d\.q_proj", "regex")
    assert matches("model.layers.0.q_proj")
    assert (
        not matches("model.layers.10.q_proj")
        and not matches("x.model.layers.0.q_proj")
        and not matches("model.layers.0.q_proj.y")
    )


@pytest.mark.parametrize(
    "pattern,mode",
    [("model..x", "exact"), ("model.layers.*.q_*", "exact"), (".x", "suffix"), ("(", "regex"), ("", "exact")],
)
def test_an_unreadable_pattern_is_refused(pattern, mode):
    if mode == "regex":
        with pytest.raises(AdapterError, match="not a regular expression"):
            matcher(pattern, mode)
    else:
        with pytest.raises(AdapterError, match="cannot be read"):
            matcher(pattern, mode)


def test_nearest_names_hold_the_one_that_was_meant():
    names = [
        f"model.layers.{i}.{m}" for i in range(3) for m in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    ] + ["lm_head"]
    assert nearest("model.layers.*.self_attn.qproj", names)[0] == "model.layers.*.self_attn.q_proj"
    assert nearest("q_proy", names)[0] == "model.layers.*.self_attn.q_proj"


@pytest.mark.parametrize("text,layers", [("3", {3}), ("0-2", {0, 1, 2}), ("0, 4 ,6-7", {0, 4, 6, 7})])
def test_layers(text, layers):
    assert parse_layers(text, 8) == layers


@pytest.mark.parametrize("text", ["", "a", "3-1", "8", "0-8", "1,,2", "-1", "1;2"])
def test_bad_layers(text):
    with pytest.raises(AdapterError):
        parse_layers(text, 8)

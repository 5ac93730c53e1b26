"""The fingerprint: equal exactly for equal tensors under equal names."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.types import Probe
from medrl.weight_sync.publisher import fingerprint, make_weights

PROBE = Probe((1, 2), (-0.5,))
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=6),
    st.builds(lambda shape, dtype: torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype),
              st.lists(st.integers(0, 3), max_size=3), st.sampled_from([torch.float32, torch.bfloat16, torch.int8])),
    max_size=4)


def example() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(3, 4), "b.weight": torch.randn(4), "c": torch.randn(2, 2).bfloat16()}


def test_it_is_the_hash_of_headers_and_bytes() -> None:
    stream = b'["x", "torch.float32", [2]]\n' + b"\x00\x00\x80\x3f\x00\x00\x00\x40"  # 1.0, 2.0 little-endian
    assert fingerprint({"x": torch.tensor([1.0, 2.0])}) == hashlib.sha256(stream).hexdigest()


@settings(max_examples=50)
@given(TENSORS)
def test_the_order_of_the_mapping_does_not_matter(tensors: dict[str, torch.Tensor]) -> None:
    assert fingerprint(tensors) == fingerprint(dict(reversed(tensors.items())))


@settings(max_examples=50)
@given(TENSORS, TENSORS)
def test_different_tensors_have_different_fingerprints(one: dict, other: dict) -> None:
    same = one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].shape == other[n].shape and one[n].equal(other[n]) for n in one)
    assert (fingerprint(one) == fingerprint(other)) == same


@pytest.mark.parametrize("change", [
    lambda t: t | {"a.weight": torch.nextafter(t["a.weight"], torch.tensor(torch.inf))},  # one bit of every number
    lambda t: t | {"a.weight": t["a.weight"].reshape(4, 3)},
    lambda t: t | {"a.weight": t["a.weight"].reshape(12)},
    lambda t: t | {"c": t["c"].view(torch.float16)},  # the same bytes as another dtype
    lambda t: t | {"a.weight": t["a.weight"].flip(0)},
    lambda t: {"a.weights" if n == "a.weight" else n: v for n, v in t.items()},
    lambda t: {n: v for n, v in t.items() if n != "c"},
    lambda t: t | {"d": torch.empty(0)},
])
def test_any_change_changes_it(change) -> None:
    assert fingerprint(change(example())) != fingerprint(example())


def test_negative_zero_is_another_number() -> None:
    assert fingerprint({"x": torch.tensor([0.0])}) != fingerprint({"x": torch.tensor([-0.0])})


def test_strides_do_not_matter() -> None:
    tensor = torch.randn(4, 3)
    assert fingerprint({"x": tensor.T.contiguous().T}) == fingerprint({"x": tensor})
    assert fingerprint({"x": tensor[:, 1]}) == fingerprint({"x": tensor[:, 1].clone()})


def test_scalars_and_empty_tensors_have_one() -> None:
    assert fingerprint({"x": torch.tensor(1.0)}) != fingerprint({"x": torch.tensor([1.0])})
    assert fingerprint({"x": torch.empty(0, 3)}) != fingerprint({"x": torch.empty(3, 0)})


def test_a_payload_carries_the_fingerprint_of_its_own_tensors() -> None:
    tensors = {"m.lora_A.weight": torch.randn(2, 3, requires_grad=True), "m.lora_B.weight": torch.randn(4, 2)}
    weights = make_weights(5, "adapter", tensors, {"m": 2.0}, PROBE)
    assert weights.fingerprint == fingerprint(weights.tensors) == fingerprint(tensors)
    assert (weights.version, weights.kind, weights.scaling, weights.probe) == (5, "adapter", {"m": 2.0}, PROBE)
    assert not any(tensor.requires_grad for tensor in weights.tensors.values())

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.roofline import (
    ModelSize,
    Rates,
    Work,
    decode_work,
    forward_flops,
    optimizer_work,
    prefill_work,
    step_bound,
    training_flops,
)

TINY = ModelSize(products=1000, layers=2, attention=16, keys=8, hidden=12, vocabulary=50)
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def test_forward_by_hand():
    # 2·1000·5 for the layers, 4·2·16·(9 + 4)/2 for attention over 3 and 2 tokens, 2·600·4 for four rows of logits
    assert forward_flops(TINY, [3, 2], 4) == 10_000 + 832 + 4_800


def test_full_training_is_three_forwards():
    assert training_flops(TINY, [3, 2], 4) == 3 * forward_flops(TINY, [3, 2], 4)


def test_lora_leaves_out_the_bases_weight_gradients():
    # 2·2·1000·5 for the layers, 3·832 for attention, 2·4800 for the frozen head, 6·70·5 for the adapters
    assert training_flops(TINY, [3, 2], 4, adapter=70) == 20_000 + 2_496 + 9_600 + 2_100


def test_checkpointing_adds_a_forward_of_the_layers():
    more = training_flops(TINY, [3, 2], 4, checkpointing=True) - training_flops(TINY, [3, 2], 4)
    assert more == forward_flops(TINY, [3, 2], 0)
    more = training_flops(TINY, [3, 2], 4, adapter=70, checkpointing=True) - training_flops(TINY, [3, 2], 4, adapter=70)
    assert more == forward_flops(TINY, [3, 2], 0) + 2 * 70 * 5


def test_prefill_reads_the_weights_once():
    assert prefill_work(TINY, [3, 2], 2) == Work(forward_flops(TINY, [3, 2], 2), (1000 + 600) * 2)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5))
def test_decoding_against_a_walk_through_every_step(sequences):
    prompts, answers = [p for p, _ in sequences], [n for _, n in sequences]
    flops = read = 0.0
    for step in range(1, max(answers)):
        running = [p for p, n in sequences if step < n]
        read += (TINY.products + TINY.head) * 2
        for p in running:
            keys_seen = p + step  # the prompt, and the answer's tokens before this one
            flops += 2 * (TINY.products + TINY.head)
            for _layer in range(TINY.layers):
                flops += 2 * TINY.attention * keys_seen + 2 * TINY.attention * keys_seen  # q·k, then weights·v
                read += (TINY.keys * keys_seen + TINY.keys * keys_seen) * 4
    assert decode_work(TINY, prompts, answers, weight_bytes=2, cache_bytes=4) == Work(flops, read)


@given(LENGTHS, LENGTHS)
def test_sequences_add_up(first, second):
    both = forward_flops(TINY, first + second, 7)
    assert both == forward_flops(TINY, first, 3) + forward_flops(TINY, second, 4)


def test_nothing_to_do():
    assert forward_flops(TINY, [], 0) == 0
    assert decode_work(TINY, [], [], 2, 2) == Work()
    assert step_bound({}, {}) == 0


def test_optimizer_bytes():
    assert optimizer_work(10).bytes == 7 * 4 * 10


def test_a_phase_takes_the_slower_of_arithmetic_and_memory():
    rates = Rates(flops=100.0, bytes=10.0)
    assert rates.seconds(Work(flops=200.0, bytes=5.0)) == 2.0
    assert rates.seconds(Work(flops=200.0, bytes=50.0)) == 5.0


def test_phases_of_one_device_add_and_devices_overlap():
    rates = {"learner": Rates(10.0, 10.0), "rollout": Rates(1.0, 1.0)}
    phases = {"generate": ("rollout", Work(flops=4.0)), "score": ("learner", Work(flops=20.0)),
              "update": ("learner", Work(bytes=30.0))}
    assert step_bound(phases, rates) == pytest.approx(5.0)
    assert step_bound(phases | {"sync": ("rollout", Work(bytes=3.0))}, rates) == pytest.approx(7.0)

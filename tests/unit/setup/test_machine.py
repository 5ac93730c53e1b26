"""What is found of a CPU, beside what torch says of it."""

from __future__ import annotations

import torch

from medrl.setup import machine
from medrl.setup.machine import bfloat16_gain, this_machine


def test_instruction_sets_are_those_that_torch_finds():
    found = this_machine()
    assert ("avx512_bf16" in found.sets) == torch.cpu._is_avx512_bf16_supported()
    if found.gpu is None:
        assert not found.flash_attention


def test_the_first_cpu_of_the_list_is_read(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: A: 1\nflags\t\t: fpu amx_bf16 avx512_bf16\n\nmodel name\t: B\n")
    assert machine._cpu(file) == ("A: 1", {"fpu", "amx_bf16", "avx512_bf16"})
    assert machine._cpu(tmp_path / "none") == ("CPU", set())


def test_the_gain_is_the_ratio_of_two_times_and_leaves_the_threads_alone(monkeypatch):
    """Products that take 3 s in float32 and 2 s in bfloat16 by a clock of our own."""
    times, before = iter([3.0, 2.0]), torch.get_num_threads()
    monkeypatch.setattr(machine, "_seconds", lambda work: work() is not None and next(times))
    assert bfloat16_gain(before + 1) == 1.5 and torch.get_num_threads() == before

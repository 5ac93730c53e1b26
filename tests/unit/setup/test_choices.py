"""What workers choose on made-up nodes, with GPUs and without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medrl.config.common import ModelConfig
from medrl.setup.choices import (
    KEEPS,
    choose_allocator,
    choose_attention,
    choose_eager,
    choose_spins,
    choose_threads,
    explain_device,
    explain_dtype,
)
from medrl.setup.machine import Gpu, Machine

PLAIN = Machine("Old CPU", ())
LAPTOP = Machine("EPYC", ("avx512_bf16",))
XEON = Machine("Xeon", ("amx_bf16", "avx512_bf16"))
HOPPER = Machine("Xeon", ("amx_bf16",), Gpu("H200", (9, 0)), flash_attention=True)
VOLTA = replace(HOPPER, gpu=Gpu("V100", (7, 0)))
OTHER = replace(HOPPER, gpu=Gpu("xpu"))


@pytest.mark.parametrize(
    ("asked", "reserved", "cores", "together", "expected"),
    [(None, 1, 16, 1, 16), (None, 1, 16, 3, 5), (None, 1, 2, 4, 1), (None, 6.5, None, 4, 6), (None, 0.5, None, 1, 1)],
)
def test_threads_are_a_share_of_one_machine_or_what_is_reserved_on_many(asked, reserved, cores, together, expected):
    assert choose_threads(asked, reserved, cores, together).value == expected


@pytest.mark.parametrize("cores", [None, 16])
def test_threads_that_a_user_set_stay(cores):
    choice = choose_threads(7, 2, cores, 3)
    assert (choice.value, choice.why) == (7, "set by you")


def test_spins_of_the_environment_stay():
    assert choose_spins({}).value == "2000"
    choice = choose_spins({"GOMP_SPINCOUNT": "0"})
    assert choice.value == "0" and "environment" in choice.why


def test_freed_memory_is_kept_where_tensors_are_in_glibcs():
    assert choose_allocator({"HOME": "/", "LD_PRELOAD": "/lib/libgomp.so.1"}, LAPTOP).value == KEEPS
    assert choose_allocator({}, HOPPER).value != KEEPS
    assert choose_allocator({}, replace(LAPTOP, glibc=False)).value != KEEPS


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_an_allocator_that_the_environment_chooses_stays(name):
    choice = choose_allocator({name: "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"}, LAPTOP)
    assert choice.value == ("tcmalloc" if name == "LD_PRELOAD" else "glibc") and name in choice.why


def test_flash_attention_needs_gpu_package_dtype_and_architecture():
    model = ModelConfig(path="m", dtype="bfloat16")
    assert choose_attention(model, HOPPER, True).value == "flash_attention_2"
    for reason, changed, machine, supported in [
        ("no GPU", model, XEON, True),
        ("V100 is older", model, VOLTA, True),
        ("xpu is older than Ampere, or not", model, OTHER, True),
        ("float32", ModelConfig(path="m"), HOPPER, True),
        ("architecture", model, HOPPER, False),
        ("not installed", model, replace(HOPPER, flash_attention=False), True),
    ]:
        choice = choose_attention(changed, machine, supported)
        assert choice.value == "sdpa" and reason in choice.why


@pytest.mark.parametrize("asked", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("machine", [PLAIN, HOPPER])
def test_a_kernel_that_a_user_set_stays(asked, machine):
    choice = choose_attention(ModelConfig(path="m", attn_implementation=asked, dtype="bfloat16"), machine, True)
    assert (choice.value, choice.why) == (asked, "set by you")


def test_engines_are_compiled_on_gpus_only_unless_told():
    assert choose_eager(None, on_cpu=True).value is True
    gpu = choose_eager(None, on_cpu=False)
    assert gpu.value is False and "CUDA graphs" in gpu.why
    for asked in (True, False):
        for on_cpu in (True, False):
            assert (choose_eager(asked, on_cpu).value, choose_eager(asked, on_cpu).why) == (asked, "set by you")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("machine", [PLAIN, LAPTOP, XEON, HOPPER, VOLTA, OTHER])
@pytest.mark.parametrize("by_user", [True, False])
def test_a_dtype_is_never_changed(dtype, machine, by_user):
    choice = explain_dtype(dtype, by_user, machine, None if machine.gpu else 0.5)
    assert choice.value == dtype and choice.why.startswith("set by you" if by_user else "the default")


def test_what_bfloat16_means_on_a_cpu_is_measured():
    faster = explain_dtype("float32", False, LAPTOP, 1.94).why
    assert "has avx512_bf16," in faster and "bfloat16 are 1.9 × as fast: bfloat16 would be faster" in faster
    assert "would be" not in explain_dtype("bfloat16", False, XEON, 8.0).why
    assert "amx_bf16 and avx512_bf16" in explain_dtype("bfloat16", False, XEON, 8.0).why
    slower = explain_dtype("bfloat16", True, PLAIN, 0.2).why
    assert "neither" in slower and "float32 are 5.0 × as fast: float32 would be faster" in slower
    assert "would be" not in explain_dtype("float32", False, LAPTOP, 1.05).why


def test_what_bfloat16_means_on_a_gpu_follows_its_generation():
    assert "set float32" in explain_dtype("bfloat16", False, VOLTA, None).why
    assert "would be faster in bfloat16" in explain_dtype("float32", False, HOPPER, None).why
    for dtype, machine in [("bfloat16", HOPPER), ("float32", VOLTA), ("float32", OTHER), ("bfloat16", OTHER)]:
        assert explain_dtype(dtype, False, machine, None).why == "the default"


def test_a_gpu_that_is_used_without_a_reservation_is_said():
    assert explain_device(0, PLAIN).value == explain_device(1, PLAIN).value == "cpu"
    assert explain_device(1, HOPPER).value == explain_device(0.25, HOPPER).value == "H200"
    assert "0.25 of a GPU" in explain_device(0.25, HOPPER).why
    assert "not reserved" in explain_device(0, HOPPER).why and "not reserved" not in explain_device(1, HOPPER).why

"""Peak memory of a policy's forward and backward pass: `python -m tests.benchmarks.learner.memory`.

A Qwen3 of two narrow layers with the vocabulary of Qwen 2 and 3; every token but the first is a response token.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

VOCABULARY, LENGTH, HIDDEN = 151_936, 2048, 64


def peak(rows: int, whole: bool, frozen_head: bool) -> float:
    """MiB beyond the model, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.learner.memory", "--rows", str(rows)]
    command += ["--whole"] * whole + ["--frozen-head"] * frozen_head
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(rows: int, whole: bool, frozen_head: bool) -> float:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from medrl.models import head
    from medrl.models.forward import policy_forward

    torch.set_num_threads(1)
    if whole:
        head.CHUNK_ELEMENTS = sys.maxsize
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=LENGTH, tie_word_embeddings=False))
    model.lm_head.requires_grad_(not frozen_head)

    def update(ids: torch.Tensor) -> None:
        real = torch.ones_like(ids, dtype=torch.bool)
        logprobs, entropies = policy_forward(model, ids, real, real, 1.0, entropy=True)
        assert entropies is not None
        (logprobs.mean() - 0.01 * entropies.mean()).backward()

    update(torch.arange(4)[None])  # what torch loads and sets up once, and the gradients
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    update(torch.randint(0, VOCABULARY, (rows, LENGTH), generator=torch.Generator().manual_seed(0)))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.learner.memory", description=__doc__)
    parser.add_argument("--rows", type=int, help="measure in this process and print MiB (default: print a table)")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--frozen-head", action="store_true")
    options = parser.parse_args()
    if options.rows:
        print(measure(options.rows, options.whole, options.frozen_head))
        return
    print(f"MiB beyond the model at V = {VOCABULARY:,}, T = {LENGTH:,}")
    for frozen in (False, True):
        for rows in (1, 2):
            whole, chunked = peak(rows, True, frozen), peak(rows, False, frozen)
            print(f"B = {rows}, head {'frozen' if frozen else 'trains'}: whole {whole:,.0f}, in chunks {chunked:,.0f}, "
                  f"1/{whole / chunked:.1f}")


if __name__ == "__main__":
    main()

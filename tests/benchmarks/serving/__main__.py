"""What `medrl serve` adds to vLLM's own server: `python -m tests.benchmarks.serving [a.b=value ...]`.

Both serve the same random model with the same arguments and threads. They are asked in turn, one request at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

LIMIT = 0.10  # share of vLLM's own time that may be added
TOKEN_SECONDS = 0.030  # a token of the model takes this at least, or the shares say nothing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="of an answer (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=16, metavar="N",
                        help="13 million parameters each (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("runs/serving.json"), metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings of `medrl serve`")
    options = parser.parse_args()

    from tests.benchmarks.serving.measure import compare, medians
    from tests.benchmarks.serving.servers import both_servers, save_model

    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder) / "model", options.layers)
        with both_servers(model, options.overrides) as urls:
            times = compare(urls, options.rounds, options.tokens)
    figures = medians(times)
    table = Table(title=f"median of {options.rounds} answers of {options.tokens} tokens, ms")
    for column in ("", "vllm serve", "medrl serve", "added", "share"):
        table.add_column(column, justify="right")
    for name, figure in figures.items():
        milliseconds = (f"{1000 * figure[key]:.2f}" for key in ("vllm", "medrl", "added"))
        table.add_row(name, *milliseconds, f"{figure['share']:.1%}")
    Console().print(table)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"figures": figures, "times": times}, indent=2) + "\n", encoding="utf-8")
    if figures["token"]["vllm"] < TOKEN_SECONDS:
        print(f"a token takes less than {1000 * TOKEN_SECONDS:.0f} ms: give more --layers")
        return 1
    return int(any(figures[name]["share"] > LIMIT for name in ("token", "request")))


if __name__ == "__main__":
    sys.exit(main())

"""`medrl inspect`: a model's modules by role and layer, what would train, and the memory it takes; without weights."""

from __future__ import annotations

import json
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from medrl.algo.roofline import forward_flops, optimizer_work, training_flops
from medrl.config.inspect import InspectConfig
from medrl.lora.overview import Overview, overview
from medrl.lora.resolve import skeleton
from medrl.models.loading import read_config
from medrl.models.memory import ADAPTER_BYTES, BYTES, GIB, activation_memory, training_memory

FILE_WIDTH = 140  # of tables that go into a file or a pipe
SHOWN_RANGES = 4  # more ranges of layers than these are given as their number


def run_inspect(config: InspectConfig, as_json: bool = False, dry: bool = False) -> None:
    """Print the report as tables or as one JSON document; `dry`: try a one-layer model too.

    Raises ModelError for a config that cannot be built, AdapterError where a LoRA rule is broken.
    """
    report = inspect_model(config, dry)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(_modules_table(report))
    console.print(_peft_line(report), highlight=False)
    console.print(_memory_table(report))
    if report["work"]:
        console.print(_work_table(report))
    for note in report["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)


def inspect_model(config: InspectConfig, dry: bool = False) -> dict[str, Any]:
    """The report as JSON-able values; sizes in bytes."""
    model_config = read_config(config.model.path, config.model.trust_remote_code)
    model = skeleton(model_config, config.task, config.model.trust_remote_code)
    name, dtype = type(model).__name__, config.dtype or _stored_dtype(model_config)
    found = overview(model, config.lora, config.task)
    rule_hits = [row for row in found.rows if row.peft]
    report: dict[str, Any] = {
        "model": {"path": config.model.path, "class": name, "model_type": model_config.model_type},
        "task": config.task,
        "lora": config.lora.model_dump() if config.lora else None,
        "modules": [row.as_dict() for row in found.rows],
        "parameters": {
            "total": found.total,
            "trainable": found.trainable,
            "percent": 100 * found.trainable / found.total,
        },
        "peft_rule": {
            "names": found.peft_rule,
            "modules": sum(row.count for row in rule_hits),
            "only_peft": sum(row.count for row in rule_hits if not row.trains.startswith("rank")),
            "only_here": sum(row.count for row in found.rows if row.trains.startswith("rank") and not row.peft),
        },
        "memory": _memory(config, dtype, model_config.get_text_config(), found),
        "work": _work(config, dtype, found),
        "notes": list(found.notes),
    }
    if dry:
        from medrl.lora.dry_run import dry_run

        checked = dry_run(model_config, config.lora, config.task, config.model.trust_remote_code)
        report["notes"].append(f"dry run: all {checked} trainable tensors of one layer of each kind got a gradient")
    return report


def _stored_dtype(model_config: Any) -> str:
    """The dtype config.json names, if medrl trains in it; else bfloat16, which takes as much as float16."""
    name = str(model_config.dtype).removeprefix("torch.")
    return name if name in BYTES else "bfloat16"


def _memory(config: InspectConfig, dtype: str, text: Any, found: Overview) -> dict[str, Any]:
    lora, logits = config.lora is not None, config.task == "causal"
    activations = [
        activation_memory(text, config.batch, config.length, dtype, checkpointing=again, logits=logits)
        for again in (False, True)
    ]
    return {
        "dtype": dtype,
        "batch": config.batch,
        "length": config.length,
        **training_memory(found.total, found.trainable, dtype, lora)._asdict(),
        "activations": activations[0],
        "activations_with_checkpointing": activations[1],
    }


def _work(config: InspectConfig, dtype: str, found: Overview) -> dict[str, Any] | None:
    """The least work of one optimizer step over the batch, and what a weight sync sends; None for unknown sizes."""
    if found.size is None:
        return None
    lengths, tokens = [config.length] * config.batch, config.batch * config.length
    logits = tokens if config.task == "causal" else 0
    adapter = found.trainable if config.lora else 0
    return {
        "forward_flops": forward_flops(found.size, lengths, logits),
        "training_flops": training_flops(found.size, lengths, logits, adapter=adapter),
        "training_flops_with_checkpointing": training_flops(
            found.size, lengths, logits, adapter=adapter, checkpointing=True
        ),
        "optimizer_bytes": optimizer_work(found.trainable).bytes,
        "sync_bytes": ADAPTER_BYTES * found.trainable if config.lora else BYTES[dtype] * found.total,
    }


def _modules_table(report: dict[str, Any]) -> Table:
    counts, model = report["parameters"], report["model"]
    title = f"{model['class']} ({model['model_type']}) · {counts['total']:,} parameters"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for name in ("role", "module", "layers", "shape"):
        table.add_column(name, overflow="fold")  # a name cut short says nothing
    for name in ("parameters", "trains", "trainable"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("PEFT's rule")
    for row in report["modules"]:
        table.add_row(
            row["role"], row["module"], _layers(row["layers"]), row["shape"], _millions(row["parameters"]),
            row["trains"], _millions(row["trainable"]) if row["trainable"] else "", "LoRA" if row["peft"] else "",
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "all", "", "", "", _millions(counts["total"]), f"{counts['percent']:.2f} %", _millions(counts["trainable"]), ""
    )
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _layers(text: str) -> str:
    parts = text.split(",")
    if len(parts) <= SHOWN_RANGES:
        return text
    count = sum(int(last or first) - int(first) + 1 for first, _, last in (part.partition("-") for part in parts))
    return f"{count} of {parts[0].partition('-')[0]}-{parts[-1].rpartition('-')[2]}"


def _peft_line(report: dict[str, Any]) -> str:
    rule, model_type = report["peft_rule"], report["model"]["model_type"]
    if rule["names"] is None:
        return f"PEFT has no rule of its own for {model_type}: without target_modules it would raise an error."
    return (
        f"PEFT's own rule for {model_type} is {', '.join(rule['names'])}: {rule['modules']} modules, "
        f"{rule['only_peft']} of them not adapted here; it leaves out {rule['only_here']} that are."
    )


def _memory_table(report: dict[str, Any]) -> Table:
    memory = report["memory"]
    title = f"memory of one worker that shards nothing, {memory['dtype']}"
    table = Table("role", title=title, title_justify="left", box=SIMPLE)
    table.add_column("GiB", justify="right")
    batch = f"activations, {memory['batch']} × {memory['length']} tokens"
    rows = {role: memory[role] for role in ("weights", "gradients", "optimizer")}
    rows |= {
        batch: memory["activations"],
        f"{batch}, gradient checkpointing": memory["activations_with_checkpointing"],
    }
    for role, size in rows.items():
        table.add_row(role, "unknown" if size is None else f"{size / GIB:.2f}")
    return table


def _work_table(report: dict[str, Any]) -> Table:
    work, memory = report["work"], report["memory"]
    table = Table("at least", title="work of one step", title_justify="left", box=SIMPLE)
    table.add_column("", justify="right")
    batch = f"{memory['batch']} × {memory['length']} tokens"
    for row, key in {
        f"forward, {batch}": "forward_flops",
        f"forward and backward, {batch}": "training_flops",
        f"forward and backward, {batch}, gradient checkpointing": "training_flops_with_checkpointing",
    }.items():
        table.add_row(row, f"{work[key] / 1e12:,.3g} TFLOP")
    table.add_row("memory traffic of the optimizer", f"{work['optimizer_bytes'] / GIB:,.3g} GiB")
    table.add_row("one weight sync sends", f"{work['sync_bytes'] / GIB:,.3g} GiB")
    return table

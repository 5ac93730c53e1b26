"""Versions without files."""

from __future__ import annotations

from pathlib import Path

from medrl.registry.record import Record, Version
from serve.swap.messages import Target

RECORD = Record(
    checksum="", files={}, template_hash="", source="", merged=False, registered_by="somebody", registered_at="once"
)


def target(number: int, path: Path = Path("nowhere")) -> Target:
    return Target.of(Version(number, path, (), RECORD.model_copy(update={"checksum": f"{number:064d}"})))

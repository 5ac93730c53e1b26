"""Versions without files."""

from __future__ import annotations

from pathlib import Path

from medrl.registry.record import Record, Version
from serve.swap.messages import Target

RECORD = Record(checksum="0" * 64, files={}, template_hash="", source="", merged=False, registered_by="", registered_at="")


def target(number: int, path: Path = Path("nowhere")) -> Target:
    return Target.of(Version(number, path, (), RECORD.model_copy(update={"checksum": f"{number:064d}"})))

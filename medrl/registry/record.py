"""What a version is: facts that never change once it is registered."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medrl.registry.evaluation import Evaluation


class Record(BaseModel):
    """Where a model comes from and what is known of it. Hashes are sha256; None: not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    checksum: str  # of config and weights: `medrl.lora.identity.model_hash`
    files: dict[str, str]  # every other file → its hash
    template_hash: str
    source: str  # directory it was registered from
    copy_name: str | None = None  # folder of the registry's copy; None: the files are in `source` only
    base: str | None = None
    base_hash: str | None = None
    adapter: str | None = None
    adapter_hash: str | None = None
    run: str | None = None  # folder of the training run
    data: dict[str, str] = {}  # key of the run's `data` section → hash of what it named when the model was registered
    merged: bool  # False: trained in full, there was nothing to merge
    merge: dict[str, Any] | None = None  # merge.json
    evaluation: Evaluation | None = None
    registered_by: str
    registered_at: str  # ISO 8601, UTC


@dataclass(frozen=True)
class Version:
    """One registered model. `path` is the directory to serve, `aliases` some of "candidate", "champion"."""

    number: int
    path: Path
    aliases: tuple[str, ...]
    record: Record

    @property
    def checksum(self) -> str:
        """sha256 of config and weights."""
        return self.record.checksum


def user_name() -> str:
    """Who is logged in; a number where the machine has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

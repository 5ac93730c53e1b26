"""Which weights answered: the name an engine gives its weights, and puts on every answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medrl.lora.identity import model_hash

UNREGISTERED = "unregistered"  # a directory that is served without a registry


@dataclass(frozen=True)
class ServedVersion:
    """A version's number in the registry (`UNREGISTERED` without one), and the sha256 of its config and weights."""

    number: str
    checksum: str

    @property
    def label(self) -> str:
        """vLLM's `weight_version` for these weights."""
        return f"{self.number}@{self.checksum}"

    @classmethod
    def parse(cls, label: str) -> ServedVersion:
        """The version of a `label`. Raises ValueError when it is none."""
        number, at, checksum = label.partition("@")
        if not at:
            raise ValueError("not the label of a served version")
        return cls(number, checksum)


def unregistered(model: Path) -> ServedVersion:
    """The version of a directory. Raises ModelError as `model_hash` does."""
    return ServedVersion(UNREGISTERED, model_hash(model))

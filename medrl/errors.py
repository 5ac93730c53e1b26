"""The errors a user of medrl can meet. Each says what was expected, what came, and what to do."""

from __future__ import annotations


class MedrlError(Exception):
    """Base of every error medrl raises on purpose.

    `limit` is what was expected, `got` what came, `remedy` what to do. All three are plain strings so that the error
    survives pickling between processes.
    """

    exit_code = 2

    def __init__(self, message: str, *, limit: str = "", got: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.limit = limit
        self.got = got
        self.remedy = remedy

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.message, self.limit, self.got, self.remedy)

    def __str__(self) -> str:
        parts = [self.message]
        parts += [f"  {name}: {text}" for name, text in
                  (("expected", self.limit), ("got", self.got), ("remedy", self.remedy)) if text]
        return "\n".join(parts)


def _rebuild(kind: type[MedrlError], message: str, limit: str, got: str, remedy: str) -> MedrlError:
    return kind(message, limit=limit, got=got, remedy=remedy)


class ConfigError(MedrlError):
    """A setting is unknown, of the wrong type, or impossible together with another."""


class DataError(MedrlError):
    """A data file is missing or a row of it cannot be used."""


class ModelError(MedrlError):
    """A model or tokenizer directory cannot be used."""


class AdapterError(MedrlError):
    """A LoRA rule is broken: targets, manifest, reference or merge."""


class AmbiguousModuleError(AdapterError):
    """PEFT's own matching would adapt more modules than were asked for."""


class WeightSyncError(MedrlError):
    """A rollout engine does not hold the weights it should hold."""

    exit_code = 3


class TrainingError(MedrlError):
    """Training cannot go on: a loss or gradient is not finite."""

    exit_code = 3


class RewardError(MedrlError):
    """A scorer failed or returned something that is not a finite number."""

    exit_code = 3


class WorkerError(MedrlError):
    """A worker died, timed out, or could not be placed on the cluster."""

    exit_code = 3


class WorkerLost(WorkerError):
    """Workers died or fell silent. What they did can be done again by others.

    `role` and `workers` (their names) are known in the driver only: they do not travel between processes.
    """

    role: str = ""
    workers: tuple[str, ...] = ()


class ClusterError(MedrlError):
    """A Ray cluster cannot be reached, does not let us in, or runs other versions."""

    exit_code = 3


class CheckpointError(MedrlError):
    """A checkpoint cannot be written, or is incomplete, or belongs to another run."""

    exit_code = 3


class RegistryError(MedrlError):
    """The model registry cannot do what was asked, or a version in it is not what was registered."""

    exit_code = 3


class GateError(RegistryError):
    """A version's evaluation does not keep the limits for a champion."""


class DatabaseError(MedrlError):
    """A database is missing, cannot be reached, or cannot be written to."""

    exit_code = 3


class AuditError(MedrlError):
    """The audit's chain is broken, or a record of it cannot be kept."""

    exit_code = 3

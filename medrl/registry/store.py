"""The versions in MLflow's model registry: registered, promoted through the gate, rolled back, resolved."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medrl.config.registry import RegistryConfig
from medrl.errors import ConfigError, GateError, RegistryError
from medrl.registry.files import check_files, keep_copy
from medrl.registry.gate import Failure, gate, merge_check
from medrl.registry.history import Event, champions, read_events
from medrl.registry.lineage import describe
from medrl.registry.lock import locked
from medrl.registry.mlflow_client import failing_as_ours, open_client
from medrl.registry.record import Record, Version, now, user_name

RECORD = "record"  # tag of a model version: its facts as JSON
MODELS = "models"  # folder of the copies, in the registry's


@dataclass(frozen=True)
class _State:
    """The registry at one moment, from one query."""

    versions: list[Version]  # by number
    events: list[Event]  # by number

    @property
    def champion(self) -> int | None:
        stack = champions(self.events)
        return stack[-1] if stack else None


class Registry:
    """All versions of one model.

    The events say which version is the champion, the numbers which is the candidate (the newest); the aliases in MLflow
    mirror both, so that moving an alias by hand promotes nothing.
    """

    def __init__(self, config: RegistryConfig, create: bool = False) -> None:
        """Open the registry in `config.root`; with `create` make it where there is none.

        Raises ConfigError without MLflow, RegistryError when there is no registry or it cannot be opened.
        """
        self.config, self.root = config, Path(config.root).resolve()
        with failing_as_ours():
            if create:
                (self.root / MODELS).mkdir(parents=True, exist_ok=True)
            elif not (self.root / MODELS).is_dir():
                raise RegistryError(f"there is no registry in {self.root}",
                                    remedy="medrl register makes one; or set `root` to the folder of yours")
            # A new database is set up by one process; who can only read finds it there.
            with self._lock("open") if os.access(self.root, os.W_OK) else nullcontext():
                self._client: Any = open_client(config.uri or f"sqlite:///{self.root / 'registry.db'}")

    def register(
        self, model: Path, evaluation: Path | None = None, run: Path | None = None, copy: bool = True
    ) -> Version:
        """Make `model` the newest version. With `copy` its files are kept in the registry, read-only.

        `evaluation`: its evaluation.json; `run`: the training run's folder (None: looked for around the model). Raises
        what `describe` raises, RegistryError, or ModelError when the disk is full; then there is no new version.
        """
        record = describe(model, evaluation, run)
        with self._lock("register"), failing_as_ours():
            if copy:
                record = record.model_copy(update={"copy_name": keep_copy(model, record, self.root / MODELS).name})
            if not self._client.search_registered_models(f"name = '{self.config.model}'"):
                self._client.create_registered_model(self.config.model)
            made = self._client.create_model_version(
                self.config.model, f"medrl:/{record.checksum}", tags={RECORD: record.model_dump_json()})
            self._client.set_registered_model_alias(self.config.model, "candidate", str(made.version))
        return self._version(int(made.version), self._state())

    def versions(self) -> list[Version]:
        """All versions, the oldest first. Their files are not looked at."""
        return self._state().versions

    def history(self) -> list[Event]:
        """All promotions and rollbacks, the oldest first."""
        return self._state().events

    def resolve(self, name: str) -> Version:
        """The version of a number or an alias ("candidate", "champion"), its files compared with their hashes.

        Raises RegistryError when there is no such version or its files are not those that were registered.
        """
        version = self.find(name)
        check_files(version.path, version.record)
        return version

    def promote(self, name: str, force: bool = False, reason: str | None = None) -> Event:
        """Make a version the champion. With `force` whatever the gate says; then a `reason` is needed.

        Raises GateError with every limit that is not kept, RegistryError as `resolve` does, ConfigError without reason.
        """
        if force and not (reason and reason.strip()):
            raise ConfigError("a forced promotion needs a reason", remedy="add --reason TEXT: it goes into the history")
        version = self.resolve(name)
        with self._lock("promote"):
            state = self._state()
            if version.number == state.champion:
                raise RegistryError(f"version {version.number} is the champion already")
            failures = self._failures(version, state)
            if failures and not force:
                raise GateError(
                    f"version {version.number} does not pass the gate\n  " + "\n  ".join(map(str, failures)),
                    remedy="train or evaluate again; --force --reason TEXT overrules the gate, on record")
            return self._add("promote", version.number, state, reason, tuple(map(str, failures)))

    def rollback(self, reason: str | None = None) -> Event:
        """Make the previous champion the champion again; a second time, the one before it.

        Raises RegistryError when there is none, or its files are not those that were registered.
        """
        with self._lock("promote"):
            state = self._state()
            stack = champions(state.events)
            if len(stack) < 2:
                raise RegistryError("there is no earlier champion to go back to", remedy="medrl promote VERSION")
            version = self._version(stack[-2], state)
            check_files(version.path, version.record)
            return self._add("rollback", version.number, state, reason)

    def find(self, name: str) -> Version:
        """The version of a number or an alias; its files are not looked at. RegistryError when there is none."""
        state = self._state()
        for version in state.versions:
            if name in (str(version.number), *version.aliases):
                return version
        known = [str(version.number) for version in state.versions]
        raise RegistryError(
            f"{self.config.model} has no version {name}", remedy="medrl versions",
            limit=f"one of {', '.join(known)}, candidate, champion" if known else "a registered version: there is none")

    def _version(self, number: int, state: _State) -> Version:
        return next(v for v in state.versions if v.number == number)

    def _failures(self, version: Version, state: _State) -> list[Failure]:
        champion = None if state.champion is None else self._version(state.champion, state).record.evaluation
        record, limits = version.record, self.config.gate
        merge = merge_check(record.merge, record.merged) if limits.merge_check else []
        return merge + gate(record.evaluation, limits, champion)

    def _add(
        self, action: Literal["promote", "rollback"], version: int, state: _State, reason: str | None,
        overruled: tuple[str, ...] = (),
    ) -> Event:
        """Append an event. It is one write, and it decides; the alias follows."""
        number = state.events[-1].number + 1 if state.events else 1
        event = Event(number, action, version, state.champion, user_name(), now(), reason, overruled)
        with failing_as_ours():
            self._client.set_model_version_tag(self.config.model, str(version), event.tag, event.to_json())
            self._client.set_registered_model_alias(self.config.model, "champion", str(version))
        return event

    def _state(self) -> _State:
        rows: list[Any] = []
        with failing_as_ours():
            page = None
            while page is None or page.token:
                page = self._client.search_model_versions(
                    f"name = '{self.config.model}'", page_token=page.token if page else None)
                rows += page
        rows = sorted((row for row in rows if RECORD in row.tags), key=lambda row: int(row.version))
        events = read_events(row.tags for row in rows)
        stack = champions(events)
        aliases = {"candidate": int(rows[-1].version) if rows else None, "champion": stack[-1] if stack else None}
        return _State([self._from_row(row, aliases) for row in rows], events)

    def _from_row(self, row: Any, aliases: dict[str, int | None]) -> Version:
        number, record = int(row.version), Record.model_validate_json(row.tags[RECORD])
        path = self.root / MODELS / record.copy_name if record.copy_name else Path(record.source)
        return Version(number, path, tuple(alias for alias, holder in aliases.items() if holder == number), record)

    def _lock(self, name: str) -> AbstractContextManager[None]:
        return locked(self.root / f"{name}.lock", self.config.lock_timeout)

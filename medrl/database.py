"""Opening SQLite and PostgreSQL through SQLAlchemy. No error of theirs gets out with a row's values in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from medrl.errors import ConfigError, DatabaseError

REMEDY = "use sqlite:///folder/file.db, or postgresql://user@host/name"
LOGGED = {"hide_parameters": True, "logging_name": "medrl"}
# A filter, not a level: a level would make the statements come out wherever anything listens at all.
logging.getLogger("sqlalchemy.engine.Engine.medrl").addFilter(lambda record: record.levelno > logging.DEBUG)  # the rows
# What may stand in a column of ids and names: no spaces, no Chinese, nothing that a spreadsheet takes for a formula.
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/,@+=-]{0,199}")
WRITERS_LOCK = 0x6D6564726C  # "medrl": the advisory lock of PostgreSQL that writers take


def open_engine(url: str, timeout: float, pragmas: Mapping[str, str] | None = None) -> Engine:
    """An engine that connects when it is first used.

    `timeout`: seconds to wait for a connection, a lock or a statement. `pragmas`: set on every SQLite connection.
    Raises ConfigError for another kind of database, a password in the URL, or a missing driver.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError("the database's url cannot be read", remedy=REMEDY) from None
    if parsed.password:
        raise ConfigError("the database's url holds a password",
                          remedy="leave it out: PostgreSQL reads PGPASSWORD or ~/.pgpass")
    name = parsed.get_backend_name()
    if name == "postgresql":
        return _postgresql(parsed.set(drivername="postgresql+psycopg"), timeout)
    if name != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise ConfigError("this database cannot be used", got=name, remedy=REMEDY)
    engine = create_engine(parsed, **LOGGED, connect_args={"timeout": timeout})

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _record: Any) -> None:
        for pragma, value in (pragmas or {}).items():
            connection.execute(f"PRAGMA {pragma}={value}")

    return engine


def _postgresql(url: Any, timeout: float) -> Engine:
    limit = f"{timeout * 1000:.0f}"
    options = [f"-c {name}={limit}" for name in
               ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")]
    try:
        return create_engine(url, **LOGGED, pool_pre_ping=True, isolation_level="READ COMMITTED",
                             connect_args={"connect_timeout": max(2, round(timeout)), "options": " ".join(options)})
    except ModuleNotFoundError:
        raise ConfigError("PostgreSQL's driver is not installed", remedy="pip install 'medrl[postgres]'") from None


def sqlite_path(engine: Engine) -> Path | None:
    """The file of an SQLite database; None for PostgreSQL."""
    return Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None


def check_exists(engine: Engine) -> None:
    """DatabaseError when there is no file: connecting would make an empty one."""
    if (path := sqlite_path(engine)) and not path.is_file():
        raise DatabaseError(f"there is no database at {path}", remedy="check the url")


@contextmanager
def exclusive(engine: Engine) -> Iterator[Connection]:
    """A transaction that begins when every other such transaction, of any process, has ended. Raises DatabaseError."""
    path = sqlite_path(engine)
    if path:
        _make_folder(path.parent)
    with _errors(engine), engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if path else f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of a database, whatever is written meanwhile. Raises DatabaseError."""
    check_exists(engine)
    with _errors(engine), engine.connect() as connection:
        if sqlite_path(engine):
            connection.exec_driver_sql("BEGIN")
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


@contextmanager
def _errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        # Only operational errors are quoted: the others may repeat a row.
        text = f": {cause}".split("\n")[0] if isinstance(error, OperationalError) else ""
        raise DatabaseError(f"the database {engine.url.render_as_string()} cannot be used",
                            got=type(cause).__name__ + text,
                            remedy="check that it runs and can be written to") from None


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"the folder {path} cannot be made", got=error.strerror or type(error).__name__) from None

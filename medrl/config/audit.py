"""Where serving keeps its audit."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from medrl.config.base import StrictModel


class AuditConfig(StrictModel):
    """One record an answer, hash-chained: docs/audit.md."""

    url: str = Field(
        default="sqlite:///runs/audit/audit.db",
        description="sqlite:///folder/file.db or postgresql://user@host/name (password: PGPASSWORD or ~/.pgpass)",
    )
    key_file: str | None = Field(
        default=None, description="file with the secret key, in another folder than the database; null: `key_env`"
    )
    key_env: str = Field(default="MEDRL_AUDIT_KEY", description="environment variable that holds the secret key")
    spill_dir: str = Field(
        default="runs/audit/spill", description="local folder for records that the database cannot take at once"
    )
    queue_size: int = Field(default=4096, ge=1, description="records that wait in memory; more go to `spill_dir`")
    batch_size: int = Field(default=256, ge=1, le=1000, description="records a transaction at most")
    timeout: float = Field(
        default=10.0, gt=0, description="seconds to wait for the database before the records go to `spill_dir`"
    )
    retry_seconds: float = Field(default=5.0, gt=0, description="seconds before a failed database is tried again")


class AuditSection(StrictModel):
    """The audit's section of a serving config; the other sections may hold anything."""

    model_config = ConfigDict(extra="ignore")

    audit: AuditConfig = AuditConfig()

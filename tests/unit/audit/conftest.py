from __future__ import annotations

from pathlib import Path

import pytest

from medrl.audit.key import AuditKey
from medrl.config.audit import AuditConfig
from tests.unit.audit.answers import SECRET


@pytest.fixture
def key() -> AuditKey:
    return AuditKey(SECRET.encode())


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditConfig:
    monkeypatch.setenv("MEDRL_AUDIT_KEY", SECRET)
    return AuditConfig(url=f"sqlite:///{tmp_path}/store/audit.db", spill_dir=f"{tmp_path}/spill", timeout=0.2,
                       retry_seconds=0.05)

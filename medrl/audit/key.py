"""The audit's secret key. It signs the chain's head and stands behind every digest of a text."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from medrl.config.audit import AuditConfig
from medrl.errors import ConfigError

MIN_BYTES = 32


class AuditKey:
    """HMAC-SHA256 under a secret: without it nobody can guess a short text from its digest, or sign a head."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: at least 32 bytes. Raises ConfigError."""
        if len(secret) < MIN_BYTES:
            raise ConfigError("the audit key is too short", limit=f"at least {MIN_BYTES} bytes",
                              got=f"{len(secret)} bytes", remedy="make one with `openssl rand -hex 32`")
        self._hmac = hmac.new(secret, digestmod=hashlib.sha256)

    def digest(self, purpose: str, text: str) -> str:
        """HMAC-SHA256 of a text, 64 hex digits. Digests of one text for different purposes have nothing in common."""
        mac = self._hmac.copy()
        mac.update(f"medrl audit {purpose}\0".encode())
        mac.update(text.encode("utf-8", "surrogatepass"))
        return mac.hexdigest()


def load_key(config: AuditConfig) -> AuditKey:
    """The key from the file or the environment variable that the config names. Raises ConfigError."""
    if config.key_file is None:
        if not (text := os.environ.get(config.key_env)):
            raise ConfigError(f"the audit key is missing: {config.key_env} is not set",
                              remedy="set it, or name a file in audit.key_file; `openssl rand -hex 32` makes a key")
        return AuditKey(text.strip().encode())
    path = Path(config.key_file)
    folders = [Path(config.spill_dir), Path(config.url.removeprefix("sqlite:///")).parent]
    if path.parent.resolve() in [folder.resolve() for folder in folders]:
        raise ConfigError(f"the audit key {path} lies beside what it protects",
                          remedy="keep it where whoever copies the database does not get it too")
    try:
        return AuditKey(path.read_bytes().strip())
    except OSError as error:
        raise ConfigError(f"the audit key {path} cannot be read", got=error.strerror or type(error).__name__) from None

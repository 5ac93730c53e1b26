"""Mixed CPU and CUDA builds are noticed from package metadata alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.environment import check_environment
from medrl.errors import MedrlError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes these the installed versions, as far as package metadata tells."""
    def install(**versions: str) -> None:
        for name, version in versions.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (folder / "METADATA").write_text(text, encoding="utf-8")
        monkeypatch.setattr("sys.path", [str(tmp_path)])

    return install


@pytest.mark.parametrize("versions", [
    {"torch": "2.13.0+cpu"},
    {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu", "torchaudio": "2.11.0+cpu"},
    {"torch": "2.13.0", "torchvision": "0.28.0", "torchaudio": "2.11.0", "torchcodec": "0.17.0"},
    {},
])
def test_builds_that_go_together(installed, versions: dict[str, str]) -> None:
    installed(**versions)
    check_environment()


def test_cuda_builds_beside_cpu_torch(installed) -> None:
    installed(torch="2.13.0+cpu", torchvision="0.28.0", torchaudio="2.11.0+cpu", torchcodec="0.17.0")
    with pytest.raises(MedrlError) as caught:
        check_environment()
    assert caught.value.got == "torchvision 0.28.0, torchcodec 0.17.0"
    assert caught.value.remedy.startswith("pip uninstall -y torchvision torchcodec")

"""The GPU's state as nvidia-smi writes it, and what is said where there is no GPU."""

import sys
from pathlib import Path

import pytest
import torch

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.targets import gpu

# nvidia-smi --query-gpu=... --format=csv,noheader,nounits, with fields that a board does not report.
ROWS = """NVIDIA L4, 580.65.06, P0, 43, 2040, 2040, 6251, 31.52, 72.00
NVIDIA GeForce RTX 5090, 580.65.06, P8, [N/A], 180, 3090, 405, [Not Supported], 575.00
"""


def test_states_are_read_field_by_field() -> None:
    first, second = gpu.parse_states(ROWS)
    assert first == gpu.GpuState("NVIDIA L4", "580.65.06", "P0", 43.0, 2040.0, 2040.0, 6251.0, 31.52, 72.0)
    assert (second.name, second.temperature_c, second.power_w) == ("NVIDIA GeForce RTX 5090", None, None)


def test_states_of_another_form_are_refused() -> None:
    assert gpu.parse_states("") == ()
    with pytest.raises(NacdeployError, match="nvidia-smi gives 2 fields"):
        gpu.parse_states("NVIDIA L4, 580.65.06\n")


def test_states_are_asked_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nassert '--format=csv,noheader,nounits' in sys.argv\nprint({ROWS!r})"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [state.power_state for state in gpu.states()] == ["P0", "P8"]
    program.write_text(f"#!{sys.executable}\nraise SystemExit('no devices were found')")
    assert gpu.states() == ()
    program.unlink()
    assert gpu.states() == ()


def test_missing_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.present_capability() is None
    with pytest.raises(NacdeployError, match=r"^running an engine needs an NVIDIA GPU"):
        gpu.require_gpu("running an engine")


@pytest.mark.gpu
def test_event_tells_the_time_of_the_device() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    stream = torch.cuda.Stream()

    def product() -> None:
        with torch.cuda.stream(stream):
            torch.mm(a, a)

    product()
    assert gpu.event_ms(product, stream) > 0
    assert gpu.states()[0].driver is not None

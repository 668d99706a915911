"""The NVIDIA GPU here: whether there is one, what state it is in, and the device time of a call on it."""

import csv
import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import NacdeployError

_FIELDS = {
    "name": "name",
    "driver_version": "driver",
    "pstate": "power_state",
    "temperature.gpu": "temperature_c",
    "clocks.sm": "sm_clock_mhz",
    "clocks.max.sm": "max_sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
}
_TEXTS = ("name", "driver", "power_state")


@dataclass(frozen=True)
class GpuState:
    """What nvidia-smi says of one GPU; None where it says nothing ("[N/A]")."""

    name: str | None
    driver: str | None
    power_state: str | None
    temperature_c: float | None
    sm_clock_mhz: float | None
    max_sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_w: float | None
    power_limit_w: float | None


def present_capability() -> str | None:
    """The compute capability of the GPU that torch would use, such as "SM89"; None without one.

    Only torch is asked: ONNX Runtime lists providers for which there is no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


def require_gpu(what: str) -> str:
    """The capability of the GPU here, for `what` ("running an engine").

    Raises:
        NacdeployError: there is none.
    """
    capability = present_capability()
    if capability is None:
        raise NacdeployError(f"{what} needs an NVIDIA GPU with its driver, and torch finds none here")
    return capability


def states() -> tuple[GpuState, ...]:
    """The GPUs' clocks, temperature, driver and power state now; empty where nvidia-smi is not there or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_states(done.stdout)


def parse_states(text: str) -> tuple[GpuState, ...]:
    """The rows of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`, in the order of `_FIELDS`.

    Raises:
        NacdeployError: a row has another number of fields.
    """
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    for row in rows:
        if len(row) != len(_FIELDS):
            raise NacdeployError(f"nvidia-smi gives {len(row)} fields where {len(_FIELDS)} were asked for: {row}")
    return tuple(
        GpuState(**{name: _value(name, cell) for name, cell in zip(_FIELDS.values(), row, strict=True)})  # type: ignore[arg-type]
        for row in rows
    )


def event_ms(enqueue: Callable[[], Any], stream: Any) -> float:
    """The time in ms that the device spends on what `enqueue` puts on a torch CUDA stream, between two CUDA events."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(stream)
    enqueue()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end))


def _value(name: str, cell: str) -> str | float | None:
    if cell.startswith("[") or cell in ("", "N/A"):
        return None
    if name in _TEXTS:
        return cell
    try:
        return float(cell)
    except ValueError:
        return None

"""Which of the two builders makes an engine here."""

import platform

from nacdeploy.base.packages import import_problem
from nacdeploy.exporters.targets import Package

# What TensorRT-RTX builds for ahead of time.
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
# TensorRT-RTX has wheels for Linux on x86-64 alone, and is required only there.
_HAS_WHEEL = (platform.system(), platform.machine()) == ("Linux", "x86_64")
_RTX = Package("tensorrt_rtx", ("tensorrt-rtx-cu13",), "targets trt and trt-rtx, built ahead of time without a GPU")
RTX_PACKAGES = (_RTX,) if _HAS_WHEEL else ()

_BY_RTX = f"TensorRT-RTX, built ahead of time for {', '.join(CAPABILITIES)}; its engines run on a GPU only"

Answer = tuple[bool, str]


def ahead(gpus: tuple[str, ...]) -> Answer:
    """Whether TensorRT-RTX is here."""
    return by_rtx(import_problem("tensorrt_rtx"))


def first_here(gpus: tuple[str, ...]) -> Answer:
    """Whether either builder is here; TensorRT comes first."""
    return by_either(import_problem("tensorrt"), import_problem("tensorrt_rtx"), gpus)


def by_rtx(problem: str | None) -> Answer:
    """A problem of None means that the package imports."""
    return problem is None, problem or _BY_RTX


def by_either(tensorrt_problem: str | None, rtx_problem: str | None, gpus: tuple[str, ...]) -> Answer:
    """Where TensorRT imports, it is the one that is used; it builds for the GPU it runs on."""
    if tensorrt_problem is None and gpus:
        return True, f"TensorRT, built for the GPU here: {', '.join(gpus)}"
    if tensorrt_problem is None:
        way_out = "" if rtx_problem else "; to build ahead of time with TensorRT-RTX instead: --target trt-rtx"
        return False, f"TensorRT is installed and comes first, but finds no GPU{way_out}"
    if rtx_problem is None:
        return True, _BY_RTX
    return False, f"{rtx_problem}; TensorRT itself: pip install 'nacdeploy[trt]'"

"""Environment: what is installed here, what is missing, and which export targets work. `nacdeploy doctor` prints it."""

import importlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util

from nacdeploy import profile as profiles

RTX_CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")


@dataclass(frozen=True)
class Component:
    """One package: `version` is None where it is missing; `pip` is the line that adds it."""

    name: str
    version: str | None
    purpose: str
    required: bool
    pip: str


@dataclass(frozen=True)
class Conflict:
    """Packages that spoil each other, and the lines that mend it."""

    problem: str
    pip: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """Whether an export target works here, and why (not)."""

    name: str
    works: bool
    why: str


@dataclass(frozen=True)
class Report:
    """Everything `nacdeploy doctor` says."""

    python: str
    machine: str
    gpus: tuple[str, ...]
    components: tuple[Component, ...]
    conflicts: tuple[Conflict, ...]
    targets: tuple[Target, ...]

    @property
    def healthy(self) -> bool:
        """Every required package is there and none spoils another."""
        return not self.conflicts and all(c.version is not None for c in self.components if c.required)


@dataclass(frozen=True)
class _Package:
    module: str
    distributions: tuple[str, ...]
    purpose: str
    extra: str | None = None


_HAS_GPU_WHEEL = (platform.system(), platform.machine()) == ("Linux", "x86_64") or platform.system() == "Windows"
_ONNXRUNTIME = ("onnxruntime-gpu", "onnxruntime") if _HAS_GPU_WHEEL else ("onnxruntime", "onnxruntime-gpu")

_PACKAGES = (
    _Package("torch", ("torch",), "training and compression"),
    _Package("torchvision", ("torchvision",), "data sets and torchvision: models"),
    _Package("torch_pruning", ("torch-pruning",), "P: channel dependencies"),
    _Package("onnx", ("onnx",), "every export"),
    _Package("onnxscript", ("onnxscript",), "torch's ONNX exporter"),
    _Package("onnxruntime", _ONNXRUNTIME, "parity, bench, target ort"),
    _Package("tensorrt_rtx", ("tensorrt-rtx-cu13",), "targets trt and trt-rtx, built ahead of time without a GPU"),
    _Package("safetensors", ("safetensors",), "checkpoints"),
    _Package("bitarray", ("bitarray",), "Huffman codes"),
    _Package("zstandard", ("zstandard",), "containers"),
    _Package("sklearn", ("scikit-learn",), "the embedded digits"),
    _Package("pydantic", ("pydantic",), "profiles and records"),
    _Package("click", ("click",), "the command line"),
    _Package("rich", ("rich",), "progress and tables"),
    _Package("wandb", ("wandb",), "tracking"),
    _Package("matplotlib", ("matplotlib",), "plots"),
    _Package("tensorrt", ("tensorrt",), "target trt, built on the GPU itself", "trt"),
    _Package("torch_tensorrt", ("torch-tensorrt",), "target torch-trt, on the GPU itself", "torch-trt"),
    _Package("openvino", ("openvino",), "target openvino", "openvino"),
    _Package("timm", ("timm",), "timm: models", "timm"),
    _Package("ray", ("ray",), "parallel search", "ray"),
)


def inspect() -> Report:
    """Look at this machine. Imports torch and the exporters' packages: takes seconds."""
    gpus = _gpus()
    return Report(
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        gpus=gpus,
        components=tuple(_component(package) for package in _PACKAGES if _applies(package)),
        conflicts=(
            *conflicts({name: v for name in ("onnxruntime", "onnxruntime-gpu") if (v := _version(name))}),
            *(Conflict(problem, ("another version of that package, or none",)) for problem in profiles.problems()),
        ),
        targets=(
            _target("onnx", ("torch", "onnx", "onnxscript", "onnxruntime"), "an ONNX file, checked in ONNX Runtime"),
            _target("ort", ("torch", "onnx", "onnxscript", "onnxruntime"), "ONNX Runtime on the CPU"),
            *engine_targets(import_problem("tensorrt"), import_problem("tensorrt_rtx"), gpus),
            torch_trt_target(util.find_spec("torch_tensorrt") is not None, gpus),
            _target("openvino", ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"), "OpenVINO on the CPU"),
        ),
    )


def conflicts(installed: Mapping[str, str]) -> tuple[Conflict, ...]:
    """The known conflicts among installed distributions, given as name -> version."""
    if not {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        return ()
    problem = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
    return (Conflict(problem, ("pip uninstall -y onnxruntime onnxruntime-gpu", "pip install onnxruntime-gpu")),)


def engine_targets(
    tensorrt_problem: str | None, rtx_problem: str | None, gpus: tuple[str, ...]
) -> tuple[Target, Target]:
    """`trt` and `trt-rtx`: which builder makes an engine here; a problem of None means that the package imports."""
    ahead = ", ".join(RTX_CAPABILITIES)
    by_rtx = f"TensorRT-RTX, built ahead of time for {ahead}; its engines run on a GPU only"
    rtx = Target("trt-rtx", rtx_problem is None, rtx_problem or by_rtx)
    if tensorrt_problem is None:
        return _tensorrt_proper(rtx_problem, gpus), rtx
    if rtx_problem is None:
        return Target("trt", True, by_rtx), rtx
    return Target("trt", False, f"{rtx_problem}; TensorRT itself: pip install 'nacdeploy[trt]'"), rtx


def torch_trt_target(is_installed: bool, gpus: tuple[str, ...]) -> Target:
    """torch-tensorrt is not imported to find out: without a driver it raises."""
    if not is_installed:
        return Target("torch-trt", False, "torch_tensorrt is not installed: pip install 'nacdeploy[torch-trt]'")
    if not gpus:
        return Target("torch-trt", False, "torch-tensorrt is installed and needs an NVIDIA GPU, which is not here")
    return Target("torch-trt", True, f"torch-tensorrt, compiled on the GPU here: {', '.join(gpus)}")


def _tensorrt_proper(rtx_problem: str | None, gpus: tuple[str, ...]) -> Target:
    """Where TensorRT imports, it is the one that is used; it builds for the GPU it runs on."""
    if gpus:
        return Target("trt", True, f"TensorRT, built for the GPU here: {', '.join(gpus)}")
    way_out = "" if rtx_problem else "; to build ahead of time with TensorRT-RTX instead: --target trt-rtx"
    return Target("trt", False, f"TensorRT is installed and comes first, but finds no GPU{way_out}")


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported, or None. Installed is not enough: a library beneath it may be missing."""
    if util.find_spec(module) is None:
        return f"{module} is not installed"
    try:
        importlib.import_module(module)
    except Exception as error:  # native packages fail with whatever their loader raises
        return f"{module} is installed but cannot be imported: {' '.join(str(error).split())}"
    return None


def _gpus() -> tuple[str, ...]:
    """The CUDA devices by name and capability. Only torch is asked: ONNX Runtime lists providers without a GPU too."""
    if import_problem("torch") is not None:
        return ()
    import torch

    if not torch.cuda.is_available():
        return ()
    return tuple(_describe_gpu(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count()))


def _describe_gpu(properties: object) -> str:
    name, major, minor = (getattr(properties, key) for key in ("name", "major", "minor"))
    return f"{name} (SM{major}{minor})"


def _target(name: str, modules: tuple[str, ...], what: str) -> Target:
    problems = [problem for module in modules if (problem := import_problem(module))]
    return Target(name, not problems, "; ".join(problems) or what)


def _applies(package: _Package) -> bool:
    """TensorRT-RTX has wheels for Linux on x86-64 alone, and is required only there."""
    return package.module != "tensorrt_rtx" or (platform.system(), platform.machine()) == ("Linux", "x86_64")


def _component(package: _Package) -> Component:
    versions = [v for v in map(_version, package.distributions) if v]
    return Component(
        name=package.distributions[0],
        version=versions[0] if versions else None,
        purpose=package.purpose,
        required=package.extra is None,
        pip=f"pip install 'nacdeploy[{package.extra}]'" if package.extra else f"pip install {package.distributions[0]}",
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None

"""Environment: what is installed here, what is missing, and which export targets work. `nacdeploy doctor` prints it."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from nacdeploy import profile as profiles
from nacdeploy.base.packages import import_problem
from nacdeploy.exporters import targets
from nacdeploy.exporters.targets import Package, Target

# What every export needs.
_EXPORT = ("torch", "onnx", "onnxscript", "onnxruntime")


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
class Availability:
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
    targets: tuple[Availability, ...]
    problems: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Every required package is there, none spoils another, and all that others register loads."""
        return not (self.conflicts or self.problems) and all(
            c.version is not None for c in self.components if c.required
        )


_HAS_GPU_WHEEL = (platform.system(), platform.machine()) == ("Linux", "x86_64") or platform.system() == "Windows"
_ONNXRUNTIME = ("onnxruntime-gpu", "onnxruntime") if _HAS_GPU_WHEEL else ("onnxruntime", "onnxruntime-gpu")

_PACKAGES = (
    Package("torch", ("torch",), "training and compression"),
    Package("torchvision", ("torchvision",), "data sets and torchvision: models"),
    Package("torch_pruning", ("torch-pruning",), "P: channel dependencies"),
    Package("onnx", ("onnx",), "every export"),
    Package("onnxscript", ("onnxscript",), "torch's ONNX exporter"),
    Package("onnxruntime", _ONNXRUNTIME, "parity, bench, target ort"),
    Package("safetensors", ("safetensors",), "checkpoints"),
    Package("bitarray", ("bitarray",), "Huffman codes"),
    Package("zstandard", ("zstandard",), "containers"),
    Package("sklearn", ("scikit-learn",), "the embedded digits"),
    Package("pydantic", ("pydantic",), "profiles and records"),
    Package("click", ("click",), "the command line"),
    Package("rich", ("rich",), "progress and tables"),
    Package("wandb", ("wandb",), "tracking"),
    Package("mlflow", ("mlflow-skinny", "mlflow"), "tracking with --mlflow", "mlflow"),
    Package("matplotlib", ("matplotlib",), "plots"),
    Package("timm", ("timm",), "timm: models", "timm"),
    Package("datasets", ("datasets",), "hf: data sets", "hf"),
    Package("ray", ("ray",), "parallel search", "ray"),
    Package("accelerate", ("accelerate",), "training by several processes", "accelerate"),
)


def inspect() -> Report:
    """Look at this machine. Imports torch and the exporters' packages: takes seconds."""
    from nacdeploy import metrics  # they compute with torch

    gpus, found = _gpus(), tuple(targets.every())
    packages = dict.fromkeys((*_PACKAGES, *(package for target in found for package in target.packages)))
    return Report(
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        gpus=gpus,
        components=tuple(_component(package) for package in sorted(packages, key=_is_extra)),
        conflicts=conflicts({name: v for name in ("onnxruntime", "onnxruntime-gpu") if (v := _version(name))}),
        targets=tuple(availability(target, gpus) for target in found),
        problems=(*profiles.problems(), *targets.problems(), *metrics.problems()),
    )


def availability(target: Target, gpus: tuple[str, ...]) -> Availability:
    """Return what a target itself says of this machine, or whether its packages import."""
    if target.doctor is not None:
        return Availability(target.name, *target.doctor(gpus))
    modules = (*_EXPORT, *(package.module for package in target.packages))
    problems = [problem for module in modules if (problem := import_problem(module))]
    works_as = target.works_as or f"{target.title} on the CPU"
    return Availability(target.name, not problems, "; ".join(problems) or works_as)


def _is_extra(package: Package) -> bool:
    return package.extra is not None


def conflicts(installed: Mapping[str, str]) -> tuple[Conflict, ...]:
    """Return the known conflicts among installed distributions, given as name -> version."""
    if not {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        return ()
    problem = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
    return (Conflict(problem, ("pip uninstall -y onnxruntime onnxruntime-gpu", "pip install onnxruntime-gpu")),)


def _gpus() -> tuple[str, ...]:
    """Return the CUDA devices by name and capability. Only torch is asked: ONNX Runtime lists providers without a GPU
    too."""
    if import_problem("torch") is not None:
        return ()
    import torch

    if not torch.cuda.is_available():
        return ()
    return tuple(_describe_gpu(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count()))


def _describe_gpu(properties: object) -> str:
    name, major, minor = (getattr(properties, key) for key in ("name", "major", "minor"))
    return f"{name} (SM{major}{minor})"


def _component(package: Package) -> Component:
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

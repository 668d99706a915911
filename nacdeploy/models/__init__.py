"""Networks by name: built in, from torchvision or timm, or from a factory in the user's own file."""

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from nacdeploy.base import live, records
from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.models import deit, external, from_onnx, mobilenet, resnet
from nacdeploy.models.ports import Ports, ported
from nacdeploy.models.users import factory, project

_BUILDERS = {
    **dict.fromkeys(resnet.LAYOUTS, resnet.build),
    "mobilenet_v2": mobilenet.build,
    **dict.fromkeys(deit.N_HEADS, deit.build),
}
BUILT_IN: tuple[str, ...] = tuple(_BUILDERS)
_FORMS = ("torchvision:NAME", "timm:NAME", "path/file.py:factory", "path/net.onnx")


@dataclass(frozen=True)
class ModelSpec:
    """The specification from which a network's structure can be built again.

    Attributes:
        input_size: `(H, W)`.
        channels: the channels of the images.
        width: None for the model's default.
        source_sha256: the hash of a user's file together with the modules of its own project that it imports; None for
            every other model.
        ports: the inputs and outputs of the network of a user's own task.
    """

    name: str
    n_classes: Annotated[int, Field(ge=1, le=10**7)]
    channels: Annotated[int, Field(ge=1, le=10**4)]
    input_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    width: Annotated[float, Field(gt=0, le=10**6)] | None = None
    source_sha256: str | None = None
    ports: Ports | None = None

    @property
    def content(self) -> dict[str, Any]:
        """The facts as keys of stored work hold them: without ports as older versions wrote them."""
        facts: dict[str, Any] = records.to_data(self)
        return facts if self.ports else {key: value for key, value in facts.items() if key != "ports"}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input as all rooms see it: `(C, H, W)` of images, `(K,)` of packed inputs."""
        return self.ports.input_shape if self.ports else (self.channels, *self.input_size)

    @property
    def located(self) -> str:
        """The name; for a user's file with a path that leads to the file from the current folder."""
        return factory.located(self.name, self.source_sha256) if is_file(self.name) else self.name

    def n_bytes(self) -> int | None:
        """Return the bytes of the weights, without making them, or None if unknown: for a user's file, which does not
        run for this, and for a library that needs the values.

        Raises:
            UsageError: the name is unknown, or the network cannot be built.
        """
        if self.name not in _BUILDERS:
            return None
        with torch.device("meta"):
            model = _build(self)
        return sum(value.nbytes for value in model.state_dict().values())

    def build(self) -> nn.Module:
        """Build the network with torch's default initialisation, drawn from the global generator: the caller seeds it.

        Raises:
            MissingExtraError: timm is needed and not installed.
            UsageError: the name is unknown, the network cannot be built, or the user's file has changed.
        """
        if from_onnx.is_onnx(self.name) and self.source_sha256 not in (None, digest(self.name)):
            raise UsageError(f"{self.name} has changed since it was recorded; give the file as it was, or start anew")
        model = _build(self)
        model = _materialised(model, self.input_shape) if self.ports is None else ported(model, self.ports)
        if not any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) for module in model.modules()):
            raise UsageError(f"model '{self.name}' has no convolution and no Linear layer: nothing to compress")
        return model


def _materialised(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return the network with the shapes of its lazy layers, which the first images decide."""
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in model.parameters()):
        with torch.no_grad(), suppress(Exception):  # the next run of the model reports the error
            model.eval()(torch.zeros(2, *shape))
    return model


def resolve(
    name: str, *, n_classes: int, channels: int, input_size: tuple[int, int], width: float | None = None
) -> ModelSpec:
    """Return the specification of a named network: check the name and hash a user's file, without building anything.

    Raises:
        MissingExtraError: timm is needed and not installed.
        UsageError: the name is unknown, the file is missing, or a width is given for a model from elsewhere.
    """
    digest = None
    library, _, rest = name.partition(":")
    if library == "torchvision":
        external.check_torchvision(rest)
    elif library == "timm":
        external.check_timm(rest)
    elif is_file(name):
        digest = project.read(factory.split_file_name(name)[0]).sha256
    elif name not in _BUILDERS:
        raise _unknown(name)
    if width is not None and name not in _BUILDERS:
        raise UsageError(f"width {width:g} is for built-in models only; '{name}' has its own")
    return ModelSpec(name, n_classes, channels, input_size, width, digest)


def name_by_user(*names: str | object | None) -> None:
    """Note that this user named a model or task: the user's file of that name may then run (see `models.users.trust`).

    A task that is an object is at hand from now on.
    """
    for name in names:
        if isinstance(name, str) and is_file(name):
            factory.name_file(name)
        elif name is not None and not isinstance(name, str):
            live.register(name)


def made(name: str) -> Any:
    """Return what a user's function makes, or the task of a Python program.

    Raises:
        UsageError: it is not at hand, may not run, or fails.
    """
    return live.find(name) if live.is_live(name) else factory.file_object(name, digest(name))


def digest(name: str) -> str | None:
    """Return the hash of a user's file, of code with its imports, or None for every other model."""
    if from_onnx.is_onnx(name):
        return from_onnx.digest(name)
    return project.read(factory.split_file_name(name)[0]).sha256 if is_file(name) else None


def accept_here(name: str, source_sha256: str | None) -> None:
    """Let a worker run the file that its driver runs, with the same content."""
    if source_sha256 is not None and is_file(name):
        factory.accept_here(name, source_sha256)


def _build(spec: ModelSpec) -> nn.Module:
    name, n_classes, channels, input_size = spec.name, spec.n_classes, spec.channels, spec.input_size
    library, _, rest = name.partition(":")
    if library == "torchvision":
        return external.torchvision_model(rest, n_classes=n_classes, channels=channels, input_size=input_size)
    if library == "timm":
        return external.timm_model(rest, n_classes=n_classes, channels=channels, input_size=input_size)
    if from_onnx.is_onnx(name):
        shapes = {port.name: port.shape for port in spec.ports.inputs} if spec.ports else {}
        return from_onnx.module(from_onnx.parsed(name), shapes)
    if live.is_live(name):
        return copy.deepcopy(live.find(name).network())
    if is_file(name):
        return factory.file_model(
            name, n_classes=n_classes, channels=channels, input_size=input_size, source_sha256=spec.source_sha256
        )
    if name not in _BUILDERS:
        raise _unknown(name)
    builder = _BUILDERS[name]
    return builder(name, n_classes=n_classes, channels=channels, input_size=input_size, width=spec.width)


def is_file(name: str) -> bool:
    """Tell whether a model's name names a user's file."""
    return ".py:" in name or name.endswith(".py")


def _unknown(name: str) -> UsageError:
    return unknown("model", name, [*BUILT_IN, *_FORMS])

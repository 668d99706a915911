"""The inputs and outputs of a user's network at a runner: packed and joined on this side, apart on the runner's."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nacdeploy.base.latency import Subject
from nacdeploy.exporters.onnx_graph.trace import OUTPUT
from nacdeploy.exporters.targets.ort.runner import Given
from nacdeploy.exporters.targets.runtime import Maker, Runner
from nacdeploy.models.ports import Ports, split


@dataclass
class PortedRunner:
    """A runner of a network with ports: it takes packed inputs (N, ...), and its first output is joined, (N, K)."""

    runner: Runner
    ports: Ports

    def __post_init__(self) -> None:
        own = {port.name for port in self.ports.outputs}
        self.output_names = (OUTPUT, *(name for name in self.runner.output_names if name not in own))

    def run(self, images: Given) -> list[NDArray[Any]]:
        """Return the joined answers, and the further outputs of the runner."""
        apart = given(self.ports, images)
        answers = dict(zip(self.runner.output_names, self.runner.run(apart), strict=True))
        own = [(value := answers.pop(port.name)).reshape(len(value), -1) for port in self.ports.outputs]
        return [np.concatenate(own, axis=1, dtype=np.float32, casting="unsafe"), *answers.values()]

    def subject(self, images: Given) -> Subject:
        """Return the call to be timed, on inputs that are apart already."""
        return self.runner.subject(given(self.ports, images))


def given(ports: Ports, images: Given) -> Given:
    """Return packed inputs as a network with these ports takes them: one array, or arrays by name."""
    if not ports.packs or isinstance(images, Mapping):
        return images
    parts = split(torch.from_numpy(np.ascontiguousarray(images)), ports.inputs)
    named = {
        port.name: np.ascontiguousarray(part.round().numpy() if port.n_values else part.numpy(), dtype=port.dtype)
        for port, part in zip(ports.inputs, parts, strict=True)
    }
    return next(iter(named.values())) if len(named) == 1 else named


def noise(ports: Ports) -> NDArray[Any]:
    """Return packed inputs of one sample, drawn at random."""
    draw = np.random.default_rng(0)
    parts = [
        draw.integers(0, port.n_values, port.size) if port.n_values else draw.normal(size=port.size)
        for port in ports.inputs
    ]
    return np.concatenate(parts)[None].reshape(1, *ports.input_shape).astype(np.float32)


def ported(runner: Runner, ports: Ports | None) -> Runner:
    """Return a runner that takes packed inputs and answers with joined outputs first, for a network with ports."""
    return runner if ports is None else PortedRunner(runner, ports)


def ported_maker(make: Maker, ports: Ports | None) -> Maker:
    """Return a maker of such runners."""
    return make if ports is None else partial(_made, make, ports)


def _made(make: Maker, ports: Ports, model: bytes) -> Runner:
    return ported(make(model), ports)

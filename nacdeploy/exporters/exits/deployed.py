"""An artifact that answers: in segments, as one file with branches, or whole with the gate behind all outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import onnx_files
from nacdeploy.cascades.cascade import Answered, Cascade, gated
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import Gate, Manifest
from nacdeploy.exporters.exits.running import SegmentRunner, forced, rule_of
from nacdeploy.exporters.onnx_graph.nested_if import with_thresholds
from nacdeploy.exporters.targets import pick
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.ported import ported
from nacdeploy.exporters.targets.runtime import Picked, Runner, Runtime

Given = NDArray[Any] | Tensor


@dataclass(frozen=True)
class Deployed:
    """An artifact in memory, as its files run.

    Attributes:
        whole: the runner of the whole graph; None where exits run in segments.
        cascade: the segments; None where the graph runs whole.
        single: the one file for one image; None where there is none.
        runtime: what runs it.
        note: a caution for readers of its times.
    """

    manifest: Manifest
    whole: Runner | None
    cascade: Cascade | None
    single: Runner | None
    runtime: str
    note: str = ""

    def __call__(self, images: Given) -> Answered:
        """Answer images (N, C, H, W), normalised; see `run`."""
        return self.run(images)

    def run(self, images: Given) -> Answered:
        """Answer images (N, C, H, W), normalised, in their order, and say which exit answered each.

        Raises:
            UsageError: the gate names an output that the graph does not have.
            NacdeployError: the images do not have the shape that the network takes.
        """
        x = images.numpy() if isinstance(images, Tensor) else np.asarray(images)
        shape = self.manifest.inputs[0].shape[1:]
        if self.manifest.ports is None and tuple(x.shape[1:]) != shape:
            raise NacdeployError(f"the images are of shape {tuple(x.shape)}, and the network takes (N, *{shape})")
        if len(x) == 0:
            return Answered(self.run(np.zeros((1, *x.shape[1:]), np.float32)).outputs[:0], np.zeros(0, np.int64))
        if self.single is not None and len(x) == 1:
            outputs, taken = self.single.run(x)
            return Answered(outputs, np.asarray(taken).reshape(1))
        if self.cascade is not None:
            return self.cascade.run(x)
        return self._gated(x)

    def ways(self, folder: Path) -> list[Callable[[NDArray[Any]], Any]]:
        """Return functions that answer one image, each by another exit, the network's own end last, to time them."""
        rows = forced(len(self.thresholds))
        if self.single is not None and self.manifest.cascade is not None:
            graph = (folder / self.manifest.cascade.if_file).read_bytes()
            return [OnnxRunner(with_thresholds(graph, row)).run for row in rows]
        if self.cascade is None:
            return []
        return [partial(self.cascade.run, thresholds=row) for row in rows]

    @property
    def saves_time(self) -> bool:
        """Whether an image that leaves early costs less."""
        return self.cascade is not None

    @property
    def thresholds(self) -> tuple[float, ...]:
        return self.manifest.gate.thresholds if self.manifest.gate else ()

    def _gated(self, x: NDArray[Any]) -> Answered:
        assert self.whole is not None
        found = dict(zip(self.whole.output_names, self.whole.run(x), strict=True))
        gate = self.manifest.gate or Gate()
        names = [*(each.output for each in gate.exits), self.whole.output_names[0]]
        if missing := [name for name in names if name not in found]:
            raise UsageError(f"the manifest's gate names the output '{missing[0]}', which the model does not have")
        outputs = [found[name] for name in names]
        return gated(outputs, gate.thresholds, rule_of(gate.confidence, self.manifest.metric))


def opened(
    folder: Path,
    manifest: Manifest,
    *,
    threads: int,
    host: Runtime | None = None,
    cuda_graph: bool = False,
) -> Deployed:
    """Open an artifact whose files were checked.

    Raises:
        MissingExtraError: its runtime is not installed.
        NacdeployError: a file cannot be loaded.
    """
    cascade, gate = manifest.cascade, manifest.gate
    if cascade is None or gate is None or cascade.form == "whole":
        picked = pick.pick(folder, manifest, threads=threads, host=host, cuda_graph=cuda_graph)
        whole = ported(picked.runner, manifest.ports)
        return Deployed(manifest, whole, None, None, picked.runtime, picked.note)
    found = [
        pick.pick(*_segment(folder, manifest, at), threads=threads, host=host, cuda_graph=cuda_graph)
        for at in range(len(cascade.segments))
    ]
    rule = rule_of(gate.confidence, manifest.metric)
    chain = Cascade(_as_segments(found, manifest), gate.thresholds, rule)
    single = None
    if cascade.form == "if":
        single = OnnxRunner(onnx_files.content_of(folder / cascade.if_file), threads=threads)
    return Deployed(manifest, None, chain, single, found[0].runtime, found[0].note)


def _as_segments(found: Sequence[Picked], manifest: Manifest) -> list[SegmentRunner]:
    parts = manifest.cascade.segments if manifest.cascade else ()
    return [
        SegmentRunner(picked.runner, part.outputs, is_first=at == 0)
        for at, (picked, part) in enumerate(zip(found, parts, strict=True))
    ]


def _segment(folder: Path, manifest: Manifest, index: int) -> tuple[Path, Manifest]:
    """Return the folder of a segment, and its manifest as if it were an artifact of its own."""
    part = manifest.cascade.segments[index] if manifest.cascade else None
    if part is None:
        raise UsageError(f"{folder} has no segments")
    place = PurePosixPath(part.model_file).parent
    inside = {
        str(PurePosixPath(name).relative_to(place)): digest
        for name, digest in manifest.files.items()
        if PurePosixPath(name).is_relative_to(place)
    }
    return folder / place, replace(
        manifest,
        model_file=PurePosixPath(part.model_file).name,
        engines={capability: PurePosixPath(name).name for capability, name in part.engines.items()},
        builds=part.builds,
        gate=None,
        cascade=None,
        files=inside,
    )


def segments_of(folder: Path, manifest: Manifest) -> list[tuple[Path, Manifest]]:
    """Return the folders of an artifact's segments, each with its manifest as if it were an artifact of its own."""
    n = len(manifest.cascade.segments) if manifest.cascade else 0
    return [_segment(folder, manifest, index) for index in range(n)]


def load(path: Path, *, threads: int = 1) -> Deployed:
    """Open the artifact in a folder.

    Raises:
        UsageError: it is no artifact.
        NacdeployError: a file is missing or damaged.
    """
    manifest, _ = artifact.load(path)
    host = pick.gpu_host([manifest])
    return opened(path, manifest, threads=threads, host=host)

"""The files of an artifact whose exits save time: its segments, or all of them in one file, and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from nacdeploy.base.errors import UsageError

Form = Literal["whole", "segments", "if"]
FOLDER = "segments"
CURVE = "exits.json"


@dataclass(frozen=True)
class Passed:
    """The tensor that a segment passes on: `(N, *shape)`; integers stand for `scale * (integer - zero_point)`."""

    tensor: str
    dtype: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class SegmentFile:
    """One segment.

    Attributes:
        model_file: its ONNX file.
        outputs: the outputs of its exit, then the tensor that goes on; of the last segment the network's own outputs.
        passes: the tensor that goes on; None behind the last one.
        engines: files by compute capability.
        builds: the records of the engines' builds.
    """

    model_file: str
    outputs: tuple[str, ...]
    passes: Passed | None = None
    engines: dict[str, str] = field(default_factory=dict)
    builds: dict[str, dict[str, Any]] = field(default_factory=dict)

    def deployed(self, files: Sequence[str]) -> tuple[str, ...]:
        """Return the files that a target takes, which names `files` in place of the ONNX file."""
        folder = PurePosixPath(self.model_file).parent
        return tuple(str(folder / name) for name in files) or (self.model_file,)


@dataclass(frozen=True)
class CascadeFiles:
    """How exits run, and what is expected of them on validation, for one image at a time.

    Attributes:
        form: "segments"; "if": one file for one image, segments for more; "whole": one graph with all outputs.
        segments: the segments in order of execution.
        if_file: the one file.
        timed_in: the runtime that the times are from.
        ways_ms: the time of an image that leaves at each exit, the network's own end last.
        whole_ms: the time of the whole graph with all outputs.
        fractions: the share of validation images that leave at each exit by the gate's thresholds; none where unknown.
        expected_ms: what follows for the mean time of an image.
        score: the score on validation by these thresholds.
        drop: its distance from the network's own end, in the metric's unit, also on images that did not choose.
        curve_file: the scores and times of other thresholds.
    """

    form: Form
    segments: tuple[SegmentFile, ...] = ()
    if_file: str = ""
    timed_in: str = ""
    ways_ms: tuple[float, ...] = ()
    whole_ms: float | None = None
    fractions: tuple[float, ...] = ()
    expected_ms: float | None = None
    score: float | None = None
    drop: float | None = None
    curve_file: str = ""

    @property
    def graphs(self) -> tuple[str, ...]:
        """The ONNX files."""
        return (*(part.model_file for part in self.segments), *filter(None, (self.if_file,)))

    @property
    def names(self) -> tuple[str, ...]:
        """The files that must have a hash."""
        own = [name for part in self.segments for name in (part.model_file, *part.engines.values())]
        return (*own, *filter(None, (self.if_file, self.curve_file)))


def check(cascade: CascadeFiles | None, n_exits: int, files: Mapping[str, str], where: str) -> None:
    """Check that a cascade from a file is one.

    Raises:
        UsageError: a file has no hash, or the parts do not fit the exits.
    """
    if cascade is None:
        return
    if missing := next((name for name in cascade.names if name not in files), None):
        raise UsageError(f"{where} has no hash of '{missing[:200]}'; export the artifact again")
    n_needed = 0 if cascade.form == "whole" else n_exits + 1
    if n_exits < 1 or len(cascade.segments) != n_needed or (cascade.form == "if") != bool(cascade.if_file):
        raise UsageError(f"{where}: {n_exits} exits do not go with {len(cascade.segments)} segments ({cascade.form})")
    wanted = [2] * (len(cascade.segments) - 1) + [1] if cascade.segments else []
    if [len(part.outputs) for part in cascade.segments] != wanted:
        raise UsageError(f"{where}: a segment has the outputs of its exit and what goes on, the last one its own alone")
    if any(len(each) not in (0, n_exits + 1) for each in (cascade.ways_ms, cascade.fractions)):
        raise UsageError(f"{where}: times and shares of exits are {n_exits + 1} each")

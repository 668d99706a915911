"""Checkpoints: a folder of plain values (safetensors) and structure (JSON). Loading runs no code but the factory's.

The structure is built anew by replaying the steps' decisions on a fresh network; the values are then loaded strictly.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors, own
from nacdeploy.base.scores import SCHEMAS, schema
from nacdeploy.exporters.targets import grid_named
from nacdeploy.models import ModelSpec, weights
from nacdeploy.models.weights import Found
from nacdeploy.network.network import Network, content
from nacdeploy.profile import Profile, from_mapping
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.operators.base import Fits
from nacdeploy.strategies.state import CompressionState, Metrics, Step, check_metrics
from nacdeploy.strategies.steps import letters
from nacdeploy.surgery.low_rank import low_rank
from nacdeploy.task import Task

RECORD, VALUES = "checkpoint.json", "model.safetensors"


@dataclass(frozen=True)
class StepRecord:
    """A step of a chain as plain data, read without the operator's package."""

    link: str
    decision: dict[str, Any]
    n_epochs: Annotated[int, Field(ge=0)]
    statistics: str = ""


@dataclass(frozen=True)
class Record:
    """checkpoint.json: all of a checkpoint but its values. `values_sha256` is the hash of their file, None in older
    checkpoints."""

    schema: int
    chain: str
    model: ModelSpec
    data: dict[str, Any]
    profile: dict[str, Any]
    grid: str
    steps: tuple[dict[str, Any], ...]
    metrics: Metrics
    baseline: Metrics
    test: dict[str, Any] | None = None
    baseline_checkpoint: str | None = None
    note: str = ""
    values_sha256: str | None = None

    def check_letters(self) -> None:
        """Check that the letters of the chain are there.

        Raises:
            UsageError: a letter is not there.
        """
        for link in Chain.parse(self.chain):
            if link.letter not in profiles.letters():
                raise UsageError(letters.unknown(link.letter, f" of the checkpoint's chain '{self.chain}'"))

    def settings(self) -> Profile:
        """Return the profile of the checkpoint.

        Raises:
            UsageError: it is no profile, or a letter of the chain is not installed, and its table neither.
        """
        self.check_letters()
        return from_mapping(self.profile, where="the checkpoint's profile")


def record_of(state: CompressionState, task: Task, profile: Profile, **extra: Any) -> Record:
    """Return the record of a state."""
    data = {"name": task.data.name, "fingerprint": task.data.fingerprint, "split_seed": task.data.split_seed}
    data |= {"mean": task.data.mean, "std": task.data.std, **task.data.as_taken}
    return Record(
        schema=schema(task.metric.name),
        chain=str(state.chain),
        model=task.spec,
        data=data,
        profile=profile.model_dump(mode="json"),
        grid=state.network.grid.name,
        steps=tuple(step_data(step) for step in state.steps),
        metrics=state.metrics,
        baseline=state.baseline,
        **extra,
    )


def write(directory: Path, state: CompressionState, record: Record) -> None:
    """Write a checkpoint into an existing directory (made by `records.new_directory`)."""
    values = packed(content(state.network))
    (directory / VALUES).write_bytes(values)
    records.write_json(directory / RECORD, replace(record, values_sha256=hashlib.sha256(values).hexdigest()))


def is_checkpoint(path: Path) -> bool:
    """Tell whether `path` is a checkpoint folder."""
    return records.is_file(path / RECORD)


def read_record(path: Path) -> Record:
    """Read the record of a checkpoint folder.

    Raises:
        UsageError: the folder holds no checkpoint, or one of another schema version.
    """
    if not is_checkpoint(path):
        raise UsageError(f"{path} is no checkpoint folder (it has no {RECORD})")
    data = records.read_json(path / RECORD)
    if not isinstance(data, dict) or data.get("schema") not in SCHEMAS:
        raise UsageError(
            f"{path}: checkpoint schema {data.get('schema') if isinstance(data, dict) else '?'} is not known here"
        )
    record = records.from_data(Record, data, where=str(path / RECORD))
    try:
        _check(record)
    except UsageError as error:
        raise UsageError(f"{path / RECORD}: {error}") from error
    return record


def _check(record: Record) -> None:
    """Check that the parts of a record agree.

    Raises:
        UsageError: chain and steps are not the same, or a figure cannot be.
    """
    record.check_letters()
    if not all(isinstance(record.data.get(key, ""), str) for key in ("name", "fingerprint")):
        raise UsageError("its data have a name or a fingerprint that is no text; train or transfer again")
    steps = "".join(str(_link(_step_record(step))) for step in record.steps)
    if str(Chain.parse(record.chain)) != steps:
        raise UsageError(f"its chain is '{record.chain[:80]}', and its steps are '{steps[:80]}'")
    for metrics in (record.metrics, record.baseline):
        check_metrics(metrics)


def baseline_folder(record: Record, path: Path) -> Path | None:
    """Return the checkpoint folder of the FP32 network behind a checkpoint at `path`, or None if it is gone."""
    if record.baseline_checkpoint is None:
        return None
    return named_folder(record.baseline_checkpoint, path / RECORD, path.absolute().parents[:2])


def named_folder(named: str, record: Path, homes: Sequence[Path]) -> Path | None:
    """Return the checkpoint folder that a record names, or None if there is none.

    A relative folder is searched from the current folder, and from the folders around the record. The references of
    somebody else's record outside `homes` and the current folder are not followed (see `own`).
    """
    places = [Path(named), *(parent / named for parent in record.absolute().parents)]
    found = [place for place in places if is_checkpoint(place)]
    allowed = (place for place in found if own.is_inside(place, [*homes, Path.cwd()]) or own.is_own(record))
    return next(allowed, None)


def load(path: Path) -> tuple[CompressionState, Record]:
    """Load the state of a checkpoint folder, bit-identical to the saved one.

    Raises:
        UsageError: the folder holds no checkpoint, or its values do not fit its structure.
    """
    record = read_record(path)
    steps = tuple(step_from_data(step) for step in record.steps)
    values = read_values(path / VALUES, record.values_sha256)
    check_size(record.model, sum(value.nbytes for value in values.values()), str(path / RECORD))
    try:
        network = rebuild(record.model, record.grid, record.settings(), steps)
    except MisfitError as error:
        raise UsageError(f"{path / RECORD}: {error}") from error
    fill(network, values, str(path))
    return CompressionState(network, record.metrics, record.baseline, steps), record


def rebuild(spec: ModelSpec, grid: str, profile: Profile, steps: Sequence[Step]) -> Network:
    """Build the structure after `steps`; its values are still to be loaded.

    Raises:
        MisfitError: a step does not fit this network.
    """
    network = Network(spec.build(), grid_named(grid), spec.input_shape).eval()
    return performed(network, profile, steps)


def performed(network: Network, profile: Profile, steps: Sequence[Step]) -> Network:
    """Build the structure after `steps` from a file; check each step against the network before it is performed.

    Raises:
        MisfitError: a step does not fit this network.
    """
    with low_rank.structure_only():
        for number, step in enumerate(steps, start=1):
            operator = letters.make(step.link, profile)
            if isinstance(operator, Fits) and (why := operator.misfit(network, step.decision)) is not None:
                raise MisfitError(f"step {number} ({step.link}) does not fit the model: {why}")
            is_captured = network.graph is not None
            network = operator.perform(network, step.decision)
            if is_captured and network.graph is None:
                raise MisfitError(f"step {number} ({step.link}) does not fit the model: what it leaves does not run")
    return network


class MisfitError(UsageError):
    """A step that does not fit the network on which it is to be performed."""


def check_size(spec: ModelSpec, n_bytes: int, where: str) -> None:
    """Check the network of a record before it takes memory: by its images, and by its weights against those that lie
    beside the record.

    Raises:
        UsageError: it is larger than the limit.
    """
    now = doors.limits()
    doors.check_pixels(spec.channels * spec.input_size[0] * spec.input_size[1], where, "network_pixels")
    n_built = spec.n_bytes()
    if n_built is not None and n_built > max(now.network_mib * 2**20, now.network_ratio * n_bytes):
        raise doors.above(where, f"describes a network of {n_built} bytes", "network_mib")


def fill(network: Network, values: Mapping[str, Tensor], where: str) -> None:
    """Load values strictly.

    Raises:
        UsageError: names or shapes differ; the first difference is named.
    """
    expected = content(network)
    _check_fit(expected, values, where)
    network.load_state_dict(dict(values))


def load_plain(path: Path, backbone: nn.Module, *, new_head: bool = False) -> Found:
    """Load weights as a trainer left them (see `models.weights`) into a network.

    Raises:
        UsageError: another kind of file, code in the file, or values that do not fit the model.
    """
    found = weights.fitting(path, backbone, new_head=new_head)
    backbone.load_state_dict(found.values)
    return found


def read_values(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read named tensors from a file, without running any code in it; check the sha256, if one is given.

    Raises:
        UsageError: the file is missing, damaged, of another kind, or holds more than tensors.
    """
    values = weights.read_tensors(path)
    if sha256 is not None and records.sha256_file(path) != sha256:
        raise UsageError(
            f"{path} is damaged: its sha256 is not the one that was recorded with it; copy {path.parent} again, or "
            "remove it and make it anew"
        )
    return values


def packed(values: Mapping[str, Tensor]) -> bytes:
    """Encode values as safetensors bytes."""
    return save({name: tensor.detach().contiguous().clone() for name, tensor in values.items()})


def step_data(step: Step) -> dict[str, Any]:
    """Convert a step to plain JSON-able data."""
    return {
        "link": str(step.link),
        "decision": records.to_data(step.decision),
        "n_epochs": step.n_epochs,
        "statistics": step.statistics,
    }


def step_from_data(data: Mapping[str, Any]) -> Step:
    """Build a step from plain data: the inverse of `step_data`.

    Raises:
        UsageError: the decision is not one of the letter's.
    """
    found = _step_record(data)
    link = _link(found)
    kind: Any = letters.kind(link.letter).decision_type
    decision = records.from_data(kind, found.decision, where=f"step {found.link[:80]}")
    return Step(link, decision, found.n_epochs, found.statistics)


def _step_record(data: Mapping[str, Any]) -> StepRecord:
    return records.from_data(StepRecord, data, "a step of the checkpoint")


def _link(step: StepRecord) -> Link:
    links = Chain.parse(step.link).links
    if len(links) != 1:
        raise UsageError(f"a step of the checkpoint is of '{step.link[:80]}', which is not one letter")
    if links[0].letter not in profiles.letters():
        raise UsageError(letters.unknown(links[0].letter))
    return links[0]


def _check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    missing, surplus = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    differing = [name for name in expected if name in given and expected[name].shape != given[name].shape]
    if missing or surplus or differing:
        if differing:
            ours, theirs = tuple(expected[differing[0]].shape), tuple(given[differing[0]].shape)
            first = f"'{differing[0]}' is {theirs}, the model has {ours}"
        else:
            first = f"'{missing[0]}' is missing" if missing else f"'{surplus[0]}' is not of this model"
        raise UsageError(f"{where} does not fit the model: {first}; check --model and --width")

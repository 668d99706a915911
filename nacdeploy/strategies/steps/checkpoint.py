"""Checkpoints: a folder of plain values (safetensors) and structure (JSON). Loading runs no code but the factory's.

The structure is built anew by replaying the steps' decisions on a fresh network; the values are then loaded strictly.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.scores import SCHEMAS, schema
from nacdeploy.exporters.targets import grid_named
from nacdeploy.models import ModelSpec, weights
from nacdeploy.models.weights import Found
from nacdeploy.network.network import Network, content
from nacdeploy.profile import Profile, from_mapping
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState, Metrics, Step
from nacdeploy.strategies.steps import letters
from nacdeploy.surgery.low_rank import low_rank
from nacdeploy.task import Task

RECORD, VALUES = "checkpoint.json", "model.safetensors"


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

    def settings(self) -> Profile:
        """Return the profile of the checkpoint.

        Raises:
            UsageError: it is no profile, or a letter of the chain is not installed, and its table neither.
        """
        for link in Chain.parse(self.chain) if self.chain else ():
            if link.letter not in profiles.letters():
                raise UsageError(letters.unknown(link.letter, f" of the checkpoint's chain '{self.chain}'"))
        return from_mapping(self.profile, where="the checkpoint's profile")


def record_of(state: CompressionState, task: Task, profile: Profile, **extra: Any) -> Record:
    """Return the record of a state."""
    data = {"name": task.data.name, "fingerprint": task.data.fingerprint, "split_seed": task.data.split_seed}
    data |= {"mean": task.data.mean, "std": task.data.std}
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
    return records.from_data(Record, data, where=str(path / RECORD))


def baseline_folder(record: Record, path: Path) -> Path | None:
    """Return the checkpoint folder of the FP32 network behind a checkpoint at `path`, or None if it is gone.

    A relative folder is searched from the current folder, and from the folders around the checkpoint.
    """
    if record.baseline_checkpoint is None:
        return None
    named = Path(record.baseline_checkpoint)
    places = [named, *(parent / named for parent in path.absolute().parents)]
    return next((place for place in places if is_checkpoint(place)), None)


def load(path: Path) -> tuple[CompressionState, Record]:
    """Load the state of a checkpoint folder, bit-identical to the saved one.

    Raises:
        UsageError: the folder holds no checkpoint, or its values do not fit its structure.
    """
    record = read_record(path)
    steps = tuple(step_from_data(step) for step in record.steps)
    network = rebuild(record.model, record.grid, record.settings(), steps)
    fill(network, read_values(path / VALUES, record.values_sha256), str(path))
    return CompressionState(network, record.metrics, record.baseline, steps), record


def rebuild(spec: ModelSpec, grid: str, profile: Profile, steps: Sequence[Step]) -> Network:
    """Build the structure after `steps`; its values are still to be loaded."""
    network = Network(spec.build(), grid_named(grid), (spec.channels, *spec.input_size)).eval()
    with low_rank.structure_only():
        for step in steps:
            network = letters.make(step.link, profile).perform(network, step.decision)
    return network


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
    try:
        (link,) = Chain.parse(data["link"])
        kind = letters.kind(link.letter).decision_type
        return Step(
            link,
            records.from_data(kind, data["decision"], where=f"step {link}"),
            data["n_epochs"],
            data.get("statistics", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"a step of the checkpoint is damaged ({error!r})") from error


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

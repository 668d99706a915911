"""The files of `export_model`: values by name, masks, and structure that is replayed on a fresh model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.experiments.driver.reporting import MODEL
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.network import Network, content
from nacdeploy.profile import Profile, from_mapping
from nacdeploy.strategies.state import Step
from nacdeploy.strategies.steps import checkpoint as checkpoints

STRUCTURE_FILE, FOLDER = "structure.json", "nacdeploy"
TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def place(folder_name: str | None, job: Path | None) -> Path:
    """Return the folder for files: the given one, within a job below the job's own."""
    given = Path(folder_name) if folder_name is not None else Path()
    return job / MODEL / given if job is not None else given


def write_values(path: Path, values: Mapping[str, Tensor]) -> None:
    """Named tensors in the format that the file's name asks for; torch's holds tensors only, and loads as such.

    Raises:
        NacdeployError: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in values.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in TORCH_SUFFIXES:
            torch.save(plain, path)
        else:
            path.write_bytes(checkpoints.packed(plain))
    except (OSError, RuntimeError) as error:
        raise NacdeployError(f"cannot write {path} ({error}); free some space or choose another folder_name") from error


@dataclass(frozen=True)
class Structure:
    """The needs of `restore` beside the values."""

    grid: str
    input_shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    steps: tuple[dict[str, Any], ...]
    values_sha256: str | None = None
    schema: int = records.SCHEMA_VERSION


def write(folder: Path, model_path: str, network: Network, steps: Sequence[Step]) -> Path:
    """Write the model's own values, and the folder that `restore` reads."""
    write_values(folder / model_path, network.backbone.state_dict())
    structure = {
        "schema": records.SCHEMA_VERSION,
        "grid": network.grid.name,
        "input_shape": list(network.input_shape),
        "steps": [checkpoints.step_data(step) for step in steps],
    }
    with records.new_directory(folder / FOLDER, replace=True) as inner:
        write_values(inner / checkpoints.VALUES, content(network))
        structure["values_sha256"] = records.sha256_file(inner / checkpoints.VALUES)
        records.write_json(inner / STRUCTURE_FILE, structure)
    return folder / FOLDER


def restore(model: nn.Module, folder: Path | str) -> nn.Module:
    """Return a fresh model of the same code, made what `export_model` wrote into `folder`: cut, masked, with its
    values. A quantized one comes back as the network that simulates it.

    Raises:
        UsageError: nothing was exported there, or it is of another model.
    """
    found = next((f for f in (Path(folder), Path(folder) / FOLDER) if (f / STRUCTURE_FILE).is_file()), None)
    if found is None:
        raise UsageError(f"{folder} holds nothing that export_model wrote (no {STRUCTURE_FILE})")
    network, _ = rebuilt(model, found, from_mapping({"name": "script"}))
    return network if network.rule is not None or network.attached else network.backbone


def rebuilt(model: nn.Module, folder: Path, profile: Profile) -> tuple[Network, tuple[Step, ...]]:
    """Return the network that was exported into `folder`, and the steps that led to its structure."""
    found = records.read(Structure, folder / STRUCTURE_FILE)
    steps = tuple(checkpoints.step_from_data(step) for step in found.steps)
    doors.check_pixels(prod(found.input_shape), str(folder / STRUCTURE_FILE), "network_pixels")
    network = checkpoints.performed(Network(model, grid_named(found.grid), found.input_shape).eval(), profile, steps)
    values = checkpoints.read_values(folder / checkpoints.VALUES, found.values_sha256)
    checkpoints.fill(network, values, str(folder))
    return network, steps

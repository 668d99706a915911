"""The memory of a search on disk: trainings, measurements and whole states by the hash of their content.

A damaged or half-written entry cannot be mistaken for a good one: entries are written atomically, their keys are hashes
of everything they depend on, and what cannot be read is made again.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nacdeploy import records
from nacdeploy.errors import NacdeployError, UsageError
from nacdeploy.layers.network import content
from nacdeploy.profile import Profile
from nacdeploy.strategies import checkpoint
from nacdeploy.strategies.advance import Trained
from nacdeploy.strategies.state import CompressionState, Metrics, Step, state_key
from nacdeploy.task import Task


class DiskMemory:
    """Trainings and metrics by key, and the states of evaluated chains."""

    def __init__(self, directory: Path, task: Task, profile: Profile) -> None:
        self._directory, self._task, self._profile = directory, task, profile
        self.n_trainings = 0
        directory.mkdir(parents=True, exist_ok=True)

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        """The training under `key`, run by `make` where it is not there yet."""
        path = self._directory / f"training-{key}.safetensors"
        try:
            return _read_training(path)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            self.n_trainings += 1
            trained = make()
            _write_values(path, trained.values, {"n_epochs": str(trained.n_epochs)})
            return trained

    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics:
        """The measurement under `key`, made by `make` where it is not there yet."""
        path = self._directory / f"metrics-{key}.json"
        try:
            return records.from_data(Metrics, records.read_json(path))
        except UsageError:
            measured = make()
            records.write_json(path, measured)
            return measured

    def remember(self, state: CompressionState) -> None:
        """Keep a state, so that its chain can be continued without running it again."""
        key = state.key
        values = self._directory / f"state-{key}.safetensors"
        if not values.is_file():
            _write_values(values, content(state.network), {})
        history = {
            "state_key": key,
            "steps": [checkpoint.step_data(step) for step in state.steps],
            "metrics": records.to_data(state.metrics),
        }
        records.write_json(self._chain_file(str(state.chain)), history)

    def recall(self, chain: str, baseline: Metrics) -> CompressionState | None:
        """The state of a chain that was kept, None where it was not or does not match its hash any more."""
        try:
            history = records.read_json(self._chain_file(chain))
            values = checkpoint.read_values(self._directory / f"state-{history['state_key']}.safetensors")
            steps = tuple(checkpoint.step_from_data(step) for step in history["steps"])
            metrics = records.from_data(Metrics, history["metrics"])
            return self._rebuilt(steps, values, history["state_key"], metrics, baseline)
        except (UsageError, KeyError, TypeError):
            return None

    def _rebuilt(
        self, steps: Sequence[Step], values: dict[str, torch.Tensor], key: str, metrics: Metrics, baseline: Metrics
    ) -> CompressionState | None:
        network = checkpoint.rebuild(self._task.spec, self._profile.target, self._profile, steps)
        checkpoint.fill(network, values, "cache")
        return CompressionState(network, metrics, baseline, tuple(steps)) if state_key(network) == key else None

    def _chain_file(self, chain: str) -> Path:
        return self._directory / f"chain-{records.sha256_data(chain)[:32]}.json"


def _read_training(path: Path) -> Trained:
    with safe_open(path, framework="pt") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return Trained(values, int(json.loads(file.metadata()["n_epochs"])))


def _write_values(path: Path, values: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file({k: v.detach().contiguous().clone() for k, v in values.items()}, temporary, metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise NacdeployError(f"cannot write {path} ({error}); free some space and go on with --resume") from error

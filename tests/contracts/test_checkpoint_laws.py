"""Law 9 of docs/architecture.md: what is loaded is bit-identical to what was saved, and no code in a file is run."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import follow, make_profile

from nacdeploy import task as tasks
from nacdeploy.base.errors import UsageError
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation


def saved(directory: Path, state: CompressionState, task: Task, profile: Profile) -> Path:
    checkpoint.write(directory, state, checkpoint.record_of(state, task, profile))
    return directory


class Bomb:
    """Unpickling this would make the file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


CHAINS = ["", "E", "QPPF", "PQQ", "EQP", "SPF", "ESQ", "S(pattern=kernel)P"]
CHAINS += ["CF", "EQCF", "SPQC"]
CHAINS += ["P(importance=lasso,reconstruct=true)Q(weights=dorefa)E", "Q(weights=binary)P(importance=apoz)"]


@pytest.mark.parametrize("word", CHAINS)
def test_loaded_state_equals_the_saved_one(
    word: str, baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    state = follow(baseline, word, task, profile)
    loaded, record = checkpoint.load(saved(tmp_path, state, task, profile))
    images = task.data.normalize(task.data.validation.images)
    with torch.inference_mode():
        before, after = state.network.forward_exits(images), loaded.network.forward_exits(images)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (loaded.key, loaded.steps, loaded.metrics) == (state.key, state.steps, state.metrics)
    assert record.chain == word
    assert not loaded.network.training


def test_loaded_state_answers_with_the_recorded_accuracy(
    baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    state = follow(baseline, "QE", task, profile)
    loaded, _ = checkpoint.load(saved(tmp_path, state, task, profile))
    assert evaluation.evaluate(loaded.network, task, task.data.validation).score == state.metrics.score


def test_checkpoint_holds_no_pickle(baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path) -> None:
    saved(tmp_path, follow(baseline, "QP", task, profile), task, profile)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.json", "model.safetensors"}
    assert json.loads((tmp_path / "checkpoint.json").read_text())["chain"] == "QP"


def test_loading_continues_the_chain_as_if_never_saved(
    baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    state = follow(baseline, "QPS", task, profile)
    loaded, _ = checkpoint.load(saved(tmp_path, state, task, profile))
    assert follow(loaded, "PF", task, profile).key == follow(state, "PF", task, profile).key


@pytest.mark.parametrize("container", ["zip", "bare pickle"])
def test_code_in_a_file_is_refused_and_not_run(container: str, task: Task, profile: Profile, tmp_path: Path) -> None:
    made, file = tmp_path / "made", tmp_path / "model.pt"
    if container == "zip":
        torch.save({"state_dict": Bomb(made)}, file)
        assert zipfile.is_zipfile(file)
    else:
        file.write_bytes(pickle.dumps(Bomb(made), protocol=2))
    with pytest.raises(UsageError, match=r"not loaded, since that could run code.*state_dict\(\)"):
        checkpoint.load_plain(file, task.build(0))
    assert not made.exists()


def test_whole_pickled_module_is_refused(task: Task, tmp_path: Path) -> None:
    torch.save(task.build(0), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="save the state dict alone"):
        checkpoint.load_plain(tmp_path / "model.pt", task.build(0))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda values: values,
        lambda values: {"state_dict": values, "epoch": 3},
        lambda values: {"model": {f"module.{name}": value for name, value in values.items()}},
    ],
    ids=["plain", "under state_dict", "data parallel"],
)
def test_state_dict_of_a_training_script_loads(wrap: Any, task: Task, tmp_path: Path) -> None:
    trained, fresh = task.build(1), task.build(2)
    torch.save(wrap(trained.state_dict()), tmp_path / "model.pt")
    checkpoint.load_plain(tmp_path / "model.pt", fresh)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))


def test_plain_safetensors_load(task: Task, tmp_path: Path) -> None:
    trained, fresh = task.build(1), task.build(2)
    (tmp_path / "m.safetensors").write_bytes(checkpoint.packed(trained.state_dict()))
    checkpoint.load_plain(tmp_path / "m.safetensors", fresh)
    assert torch.equal(next(trained.parameters()), next(fresh.parameters()))


def test_wrong_width_is_refused_with_both_shapes(task: Task, tmp_path: Path) -> None:
    profile = make_profile(width=16)
    wide = plain_network(tasks.make("resnet8", "digits", profile), profile).backbone
    torch.save(wide.state_dict(), tmp_path / "wide.pt")
    with pytest.raises(UsageError, match=r"'stem.0.weight' is \(16, 1, 3, 3\), the model has \(8, 1, 3, 3\).*width"):
        checkpoint.load_plain(tmp_path / "wide.pt", task.build(0))


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "empty.pt", "damaged"),
        (b"not a checkpoint", "text.pt", "damaged"),
        (b"not a checkpoint", "text.safetensors", "not a readable safetensors file"),
        (b"x", "model.onnx", "a checkpoint is a folder, a .safetensors file or a .pt file"),
        (None, "gone.pt", "does not exist"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(
    content: bytes | None, name: str, said: str, task: Task, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said) as refusal:
        checkpoint.load_plain(tmp_path / name, task.build(0))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("values", [[1, 2], {"epoch": 3}, {}], ids=["list", "number", "empty"])
def test_file_without_a_state_dict_is_refused(values: Any, task: Task, tmp_path: Path) -> None:
    torch.save(values, tmp_path / "model.pt")
    with pytest.raises(UsageError, match="holds no state dict"):
        checkpoint.load_plain(tmp_path / "model.pt", task.build(0))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda record: {**record, "schema": 99}, "schema 99 is not known"),
        (lambda record: {k: v for k, v in record.items() if k != "chain"}, "chain"),
        (lambda record: {**record, "steps": record["steps"][:1]}, "its steps are 'P'"),
        (lambda record: {**record, "chain": "Q", "steps": [{"link": "Q", "decision": {}, "n_epochs": 0}]}, "step Q"),
        (lambda record: {**record, "steps": [{"link": "X", "decision": {}, "n_epochs": 0}]}, "X"),
        (lambda record: {**record, "steps": [{"link": "Q"}]}, "step|decision"),
        (lambda record: {**record, "grid": "tpu"}, "tpu"),
        (lambda record: ["no", "record"], "schema"),
    ],
    ids=["schema", "no chain", "step lost", "decision", "letter", "no decision", "grid", "list"],
)
def test_damaged_record_is_refused(
    damage: Any, said: str, baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    saved(tmp_path, follow(baseline, "PE", task, profile), task, profile)
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(UsageError, match=said):
        checkpoint.load(tmp_path)

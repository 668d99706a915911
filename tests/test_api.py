"""The commands as functions: the same names, results as values, silence by default."""

import pkgutil
from pathlib import Path

import pytest
import torch

import nacdeploy
from nacdeploy import api
from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.cli.main import COMMANDS


def test_search_export_and_bench_follow_from_one_another(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = nacdeploy.search(
        model="resnet8", data="digits", budget=1, max_drop=50, profile="tiny.toml", wandb=False, out="found"
    )
    assert (result.folder, len(result.chain), result.n_evaluations) == ("found", 1, 1)
    folder = nacdeploy.export(source=result.folder, target="onnx", wandb=False)
    assert folder == Path("runs/export-onnx-1")
    table = nacdeploy.bench([folder], baseline="runs/export-ort-1", batch=1)
    assert [row.target for row in table.rows] == ["ort", "onnx"]
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_transfer_and_finetune_return_results(home: Path) -> None:
    result = nacdeploy.transfer(strategy="QP", profile="tiny.toml", wandb=False)
    assert (result.kind, result.chain) == ("transfer", "QP")
    network, again = result.network, nacdeploy.load(result.folder)
    x = torch.rand(3, *network.input_shape)
    assert torch.equal(network(x), again(x))
    assert not network.training
    further = nacdeploy.finetune(source=result.folder, epochs=1, wandb=False)
    assert (further.kind, further.chain) == ("finetune", "QPF(epochs=1)")
    assert further.scores.n_images == 60


def test_runs_may_lie_elsewhere(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "results"
    folder = api.train(profile="tiny.toml", epochs=1, runs=elsewhere)
    assert folder == elsewhere / "train-1"


def test_errors_are_exceptions_of_one_tree(home: Path) -> None:
    with pytest.raises(RefusedError, match="position 3"):
        nacdeploy.transfer(strategy="QQQ", profile="tiny.toml", wandb=False)
    with pytest.raises(UsageError, match="did you mean 'resnet8'"):
        nacdeploy.search(model="resnet9", profile="tiny.toml", wandb=False)


def test_public_names_are_those_of_the_commands() -> None:
    assert set(COMMANDS) - {"doctor", "verify"} <= set(nacdeploy.__all__)
    assert set(api.__all__) <= set(nacdeploy.__all__)


def test_no_module_stands_in_the_place_of_a_public_name() -> None:
    """A module that is imported becomes an attribute of its package."""
    modules = {each.name for each in pkgutil.iter_modules(nacdeploy.__path__)}
    assert modules & set(nacdeploy.__all__) == set()
    assert all(callable(getattr(nacdeploy, name)) for name in nacdeploy.__all__)


def test_result_loads_as_a_network(home: Path) -> None:
    network = nacdeploy.load("runs/transfer-QEF-1")
    assert network(network.example_input()).shape == (1, 10)

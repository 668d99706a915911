"""A script's own model: masks under its own training, real slicing, export and restoring."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import FlattenLinear, Residual, images
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.base.errors import UsageError
from nacdeploy.experiments import create_compressor, restore
from nacdeploy.experiments.driver.reporting import report_result
from nacdeploy.strategies.steps import checkpoint as checkpoints

X, Y = images(48), torch.arange(48) % 5


def model(kind: type[nn.Module] = Residual) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def config(compressor: str, *entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = list(entries) or [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
    return {"compressor": compressor, "config_list": given, **more}


def train(made: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    made.train()
    for x, y in zip(X.split(12), Y.split(12), strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(made(x), y).backward()
        optimizer.step()


def accuracy(made: nn.Module) -> float:
    with torch.no_grad():
        return float((made.eval()(X).argmax(1) == Y).float().mean())


def answers(made: nn.Module) -> Tensor:
    with torch.no_grad():
        return made.eval()(X)


def sgd(made: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(made.parameters(), lr=0.01, momentum=0.9)


@pytest.mark.parametrize("name", ["l1_filter", "l2_filter", "fpgm", "slim", "taylor_fo_weight_filter"])
def test_sliced_model_answers_as_the_masked_one_that_was_trained(name: str) -> None:
    made = model()
    optimizer = sgd(made)
    compressor = create_compressor(made, config(name), optimizer=optimizer, data=[(X, Y)])
    assert compressor.compress() is made
    train(made, optimizer)
    before, n_before = answers(made), sum(p.numel() for p in made.parameters())
    made = compressor.apply_speedup(dummy_input=X[:1])
    assert torch.allclose(answers(made), before, atol=1e-6)
    assert sum(p.numel() for p in made.parameters()) < n_before
    weights = copy.deepcopy(made.state_dict())
    train(made, optimizer)
    assert not torch.equal(made.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_coupled_layers_are_cut_together() -> None:
    made = model()
    create = create_compressor(made, config("l1", {"sparsity": 0.5, "op_names": ["conv2"]}))
    create.compress()
    create.apply_speedup()
    assert made.conv2.out_channels == made.stem[0].out_channels == made.classifier.in_features == 4
    assert made.conv1.out_channels == 8


def test_element_masks_hold_under_the_scripts_optimizer() -> None:
    made = model()
    optimizer = sgd(made)
    create_compressor(made, config("level"), optimizer=optimizer).compress()
    zeros = made.conv1.weight == 0
    train(made, optimizer)
    assert float(zeros.float().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(made.conv1.weight == 0, zeros)


def test_agp_rises_by_epoch_and_can_be_sliced() -> None:
    made = model(FlattenLinear)
    entry = {"final_sparsity": 0.5, "op_types": ["Conv2d"]}
    compressor = create_compressor(made, config("agp", entry, pruning_algorithm="l1", end_epoch=3))
    compressor.compress()
    gone = []
    for epoch in range(4):
        compressor.update_epoch(epoch)
        gone.append(int((made[0].weight.flatten(1).abs().sum(1) == 0).sum()))
    assert gone == sorted(gone)
    assert (gone[0], gone[-1]) == (0, 4)
    assert compressor.apply_speedup()[0].out_channels == 4  # type: ignore[index]


def test_lottery_ticket_prunes_what_training_left_small_and_rewinds() -> None:
    made = model()
    first = copy.deepcopy(made.state_dict())
    optimizer = sgd(made)
    compressor = create_compressor(made, config("lottery_ticket", prune_iterations=2), optimizer=optimizer)
    compressor.compress()
    for _ in compressor.get_prune_iterations():
        compressor.prune_iteration_start()
        start = copy.deepcopy(made.state_dict())
        train(made, optimizer)
    kept = start["conv1.weight"] != 0
    assert float((~kept).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(start["conv1.weight"][kept], first["conv1.weight"][kept])


@pytest.mark.parametrize("with_data", [True, False])
def test_quantized_model_trains_and_comes_back_as_exported(with_data: bool, tmp_path: Path) -> None:
    made = model()
    optimizer = sgd(made)
    given = config("qat", {"op_types": ["default"], "quant_bits": {"weight": 4, "output": 8}})
    compressor = create_compressor(made, given, optimizer=optimizer, data=[(X, Y)] if with_data else None)
    simulated = compressor.compress()
    train(simulated, optimizer)
    folder = compressor.export_model("m.safetensors", folder_name=str(tmp_path))
    assert torch.equal(answers(restore(model(), folder)), answers(simulated))


@pytest.mark.parametrize("name", ["net_adapt", "simulated_annealing", "amc", "auto_compress"])
def test_procedure_uses_the_scripts_evaluator_and_trainer(name: str, tmp_path: Path) -> None:
    made, calls = model(), []

    def trainer(given: nn.Module) -> None:
        calls.append(given)
        train(given, sgd(given))

    quick = {
        "net_adapt": {"sparsity_per_iteration": 0.3},
        "simulated_annealing": {"stop_temperature": 85},
        "amc": {"train_episode": 2},
        "auto_compress": {
            "num_iterations": 1, "admm_num_iterations": 1, "admm_training_epochs": 1, "stop_temperature": 95,
        },
    }  # fmt: skip
    optimizer = sgd(made)
    entry = {"op_types": ["Conv2d"]} if name == "amc" else {"op_types": ["Conv2d"], "sparsity": 0.4}
    compressor = create_compressor(
        made,
        config(name, entry, **quick[name]),
        optimizer=optimizer,
        evaluator=accuracy,
        trainer=trainer,
        data=[(X, Y)],
    )
    smaller = compressor.compress()
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model().parameters())
    assert calls
    train(smaller, optimizer)
    folder = compressor.export_model("m.pth", folder_name=str(tmp_path))
    assert torch.equal(answers(restore(model(), folder)), answers(smaller))


def test_exported_values_hold_tensors_only(tmp_path: Path) -> None:
    made = model()
    compressor = create_compressor(made, config("l1"))
    compressor.compress()
    compressor.export_model("m.pth", mask_path="mask.pth", folder_name=str(tmp_path), speedup=True)
    values = torch.load(tmp_path / "m.pth", weights_only=True)
    assert {name: v.shape for name, v in values.items()} == {n: v.shape for n, v in made.state_dict().items()}
    masks = checkpoints.read_values(tmp_path / "mask.pth")
    assert masks["conv1.weight"].shape == (8, 8, 3, 3)


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        (config("taylor"), {}, "data="),
        (config("netadapt"), {}, "evaluator="),
        (config("l1", {"sparsity": 0.5, "op_names": ["conv9"]}), {}, "no layer is named 'conv9'"),
        (config("l1", {"sparsity": {"range": [0.1, 0.2], "type": "float"}}), {}, "is a range"),
        (config("l1", {"sparsity": 1.5}), {}, "less than 1"),
        (config("l1"), {"data": [1, 2]}, "batches of inputs"),
    ],
)
def test_what_a_script_gives_wrongly_is_one_line(given: dict[str, Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        create_compressor(model(), given, **more)
    assert "\n" not in str(caught.value)


def test_speedup_of_elements_is_refused() -> None:
    compressor = create_compressor(model(), config("level"))
    compressor.compress()
    with pytest.raises(UsageError, match="'level' cuts no channels"):
        compressor.apply_speedup(X[:1])


@pytest.mark.parametrize("value", [float("nan"), "0.5", None, True])
def test_result_must_be_a_finite_number(value: Any) -> None:
    with pytest.raises(UsageError, match="one finite number"):
        report_result(value)

"""A task of one's own in a file, through the commands: two inputs and outputs, targets by name, an error in its own
unit."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import TINY, lay_out, refused_line, rows, run, succeed

import nacdeploy
from nacdeploy.exporters.targets.ort.runner import OnnxRunner

FILE = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import nacdeploy


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()
        )
        self.meta = nn.Linear(4, 32)
        self.near, self.kind = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 3, 1)

    def forward(self, image, meta):
        x = self.stem(image) + self.meta(meta)[:, :, None, None]
        return {"near": self.near(x).reshape(len(meta), -1), "kind": self.kind(x)}  # asks an input for its length


class Rows(Dataset):
    def __init__(self, n, seed):
        draw = torch.Generator().manual_seed(seed)
        self.image, self.meta = torch.rand(n, 1, 6, 6, generator=draw), torch.rand(n, 4, generator=draw)

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        small = F.avg_pool2d(self.image[i], 2)[0]
        near = small.flatten() + self.meta[i].mean()
        return {"image": self.image[i], "meta": self.meta[i], "near": near, "kind": (3 * small).long().clamp(max=2)}


def loss(answer, wanted):
    return F.mse_loss(answer.near, wanted["near"]) + 0.01 * F.cross_entropy(answer.kind, wanted["kind"])


def rmse(answer, wanted):
    return (answer["near"] - wanted["near"]).square().mean().sqrt()


def task():
    torch.manual_seed(0)
    net, loader = Net(), DataLoader(Rows(200, 0), 50, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for batch in (batch for _ in range(15) for batch in loader):
        answer = net(batch["image"], batch["meta"])
        total = F.mse_loss(answer["near"], batch["near"])
        optimizer.zero_grad(), total.backward(), optimizer.step()
    return nacdeploy.Task(
        net,
        train=loader,
        validation=Rows(60, 1),
        test=Rows(50, 2),
        loss=loss,
        metric=nacdeploy.Measure(rmse, "rmse", "m", lower_is_better=True),
    )


def other():
    one = task()
    one.model.near = nn.Conv2d(32, 2, 1)
    return one


def wrong():
    return 3


def raises():
    raise OSError("the disk is gone")
"""
PROFILE = TINY.replace("max_drop = 30.0", "max_drop = 0.5").replace("budget = 4", "budget = 3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = lay_out(tmp_path_factory.mktemp("task"), PROFILE)
    (made / "mine.py").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        done = succeed("search", "--task", "mine.py:task", "--out", "runs/found")
        (made / "printed.txt").write_text(done.out + done.err)
        succeed("transfer", "--task", "mine.py:task", "--strategy", "P(ratio=0.25)QF", "--out", "runs/followed")
        succeed("export", "--from", "runs/followed", "--target", "ort", "--out", "artifact")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_search_is_within_a_budget_in_the_unit_of_the_metric(here: Path) -> None:
    result = json.loads(Path("runs/found/result.json").read_text())
    figures = result["figures"]
    assert figures["metric"] == "rmse:lower:m" and result["model"] == result["data"] == "mine.py:task"
    assert figures["rmse"] - figures["baseline_rmse"] <= 0.5 and figures["rmse"] < figures["chance_rmse"]
    printed = Path("printed.txt").read_text()
    assert "200 training samples, 60 validation, 50 test" in printed and "metric rmse, lower is better" in printed
    assert all("no confidence" not in row["refused"] for row in rows(Path("runs/found")))


def test_search_goes_on_with_its_task_and_changes_nothing(here: Path) -> None:
    before = Path("runs/found/journal.jsonl").read_bytes()
    succeed("search", "--resume", "runs/found", "--task", "mine.py:task")
    assert Path("runs/found/journal.jsonl").read_bytes() == before
    assert "leave --task away" in refused_line(run("search", "--resume", "runs/found", "--task", "other.py:task"))


@pytest.mark.parametrize("named", [(), ("--task", "mine.py:task")])
def test_checkpoint_of_a_task_is_the_baseline_of_others(here: Path, tmp_path: Path, named: tuple[str, ...]) -> None:
    succeed("train", "--task", "mine.py:task", "--out", tmp_path / "trained")
    given = ("--checkpoint", tmp_path / "trained", "--strategy", "Q", "--out", tmp_path / "quantized")
    assert f"baseline mine.py:task from {tmp_path / 'trained'}" in succeed("transfer", *named, *given).err


def test_task_that_is_named_is_not_that_of_the_checkpoint(here: Path) -> None:
    line = refused_line(run("transfer", "--task", "mine.py:other", "--checkpoint", "runs/baselines", "--strategy", "Q"))
    assert "runs/baselines" in line
    (baseline,) = Path("runs/baselines").iterdir()
    line = refused_line(run("transfer", "--task", "mine.py:other", "--checkpoint", baseline, "--strategy", "Q"))
    assert "near" in line


def test_artifact_has_the_inputs_and_outputs_of_the_network_and_answers_as_it(here: Path) -> None:
    model = onnx.load("artifact/model.onnx")
    assert [each.name for each in model.graph.input] == ["image", "meta"]
    assert [each.name for each in model.graph.output] == ["near", "kind"]
    draw = np.random.default_rng(0)
    image, meta = draw.random((3, 1, 6, 6), np.float32), draw.random((3, 4), np.float32)
    near, kind = OnnxRunner(Path("artifact/model.onnx")).run({"image": image, "meta": meta})
    network = nacdeploy.load("runs/followed")
    with torch.no_grad():
        answer = network(torch.from_numpy(image), meta=torch.from_numpy(meta))
    assert (near.shape, kind.shape) == ((3, 9), (3, 3, 3, 3))
    for found, expected in ((near, answer.near.numpy()), (kind, answer["kind"].numpy())):
        # a value between two integers may be rounded to either
        assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_artifact_is_scored_by_the_tasks_own_metric_as_the_torch_network_is(here: Path) -> None:
    table = succeed("bench", "artifact", "--json").json
    (row,) = [row for row in table["rows"] if row["artifact"] == "artifact"]
    scores = json.loads(Path("runs/followed/result.json").read_text())["scores"]
    assert row["metric"] == "rmse:lower:m" and row["rmse"] == pytest.approx(scores["compressed"], abs=1e-3)
    assert row["n_images"] == scores["n_images"] == 50
    assert "rmse" in succeed("show", "runs/found").out and "near" in succeed("show", "artifact").out


@pytest.mark.parametrize("target", ["openvino", "trt-rtx"])
def test_other_targets_take_several_inputs_and_outputs(here: Path, target: str) -> None:
    succeed("export", "--from", "runs/followed", "--target", target, "--out", f"artifact-{target}")
    assert succeed("verify", f"artifact-{target}").code == 0


def test_artifact_is_explained_and_a_container_gives_its_bytes_back(here: Path) -> None:
    layers = {row["layer"] for row in succeed("explain", "artifact", "--rounds", "3", "--json").json["rows"]}
    assert {"stem.0", "stem.3", "meta", "near", "kind"} <= layers
    succeed("encode", "artifact", "--out", "packed.nac")
    succeed("decode", "packed.nac", "--out", "again")
    assert Path("again/model.onnx").read_bytes() == Path("artifact/model.onnx").read_bytes()


def test_result_trains_further_from_the_command_line_and_in_the_users_own_code(here: Path) -> None:
    succeed("finetune", "--from", "runs/followed", "--epochs", "1", "--out", "runs/further")
    network = nacdeploy.load("runs/followed")
    network.train()
    answer = network(torch.rand(4, 1, 6, 6), torch.rand(4, 4))
    answer.near.square().mean().backward()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in network.parameters())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("--task", "mine.py:wrong"), "'mine.py:wrong' returns int, not a nacdeploy.Task"),
        (("--task", "mine.py:raises"), "OSError: the disk is gone"),
        (("--task", "mine.py:nobody"), "has no function 'nobody'"),
        (("--task", "gone.py:task"), "gone.py"),
        (("--task", "mine.py:task", "--model", "resnet8"), "--model stands beside --task"),
        (("--task", "mine.py:task", "--input-size", "8"), "--input-size stands beside --task"),
    ],
)
def test_task_that_is_none_is_one_line_and_leaves_nothing(here: Path, command: tuple[str, ...], said: str) -> None:
    line = refused_line(run("transfer", "--strategy", "Q", *command, "--out", "runs/none"))
    assert said in line and not Path("runs/none").exists()


def test_network_learns_from_the_float_network_without_a_target(here: Path) -> None:
    done = succeed(
        "transfer", "--task", "mine.py:task", "--strategy", "P(ratio=0.25)F(distill=1)", "--out", "runs/taught"
    )
    assert "distil" in done.out + done.err
    result = json.loads(Path("runs/taught/result.json").read_text())
    assert result["figures"]["rmse"] < result["figures"]["chance_rmse"]

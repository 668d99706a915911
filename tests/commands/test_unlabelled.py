"""Images without labels: the float network's answers stand in their place, from Q to bench."""

import json
from pathlib import Path

import pytest
from command_line import change, files, refused_line, rows, run, succeed
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from nacdeploy.strategies.steps import checkpoint


def photographs(folder: str, n: int = 240) -> str:
    """A folder of grey images without folders by class, as a data set's name."""
    Path(folder).mkdir()
    for number, digit in enumerate(load_digits().images[:n]):
        Image.fromarray((digit * 15.9).astype("uint8")).save(Path(folder, f"{number:04}.png"))
    return f"folder:{folder}"


@pytest.fixture
def weights(home: Path) -> str:
    """The weights of a trained network in a file, which says nothing of where they come from."""
    (baseline,) = Path("runs/baselines").iterdir()
    values = load_file(baseline / checkpoint.VALUES)
    save_file({k.removeprefix("backbone."): v for k, v in values.items() if k.startswith("backbone.")}, "net.st")
    Path("net.st").rename("net.safetensors")
    change("images", input_size=8, n_train=150)
    return "net.safetensors"


def result(folder: Path | str) -> dict[str, object]:
    return dict(json.loads(Path(folder, "result.json").read_text()))


def test_transfer_scores_by_agreement_with_the_float_network(weights: str) -> None:
    data = photographs("photos")
    done = succeed("transfer", "--strategy", "QF", "--data", data, "--checkpoint", weights, "--out", "made")
    assert "no labels are read: the answers of resnet8 from net.safetensors stand in their place" in done.err
    assert "% agreement on validation" in done.err
    scores = result("made")["scores"]
    assert isinstance(scores, dict)
    assert scores["baseline"] == scores["control"] == 1.0
    assert 0.5 < scores["compressed"] <= 1.0
    settings = json.loads(Path("made/checkpoint/checkpoint.json").read_text())["profile"]
    assert (settings["metric"], settings["finetune"]["distill"], settings["images"]["n_classes"]) == (
        "agreement",
        1.0,
        10,
    )


def test_result_goes_on_to_artifact_bench_and_further_training(weights: str) -> None:
    data = photographs("photos")
    succeed("transfer", "--strategy", "PEQ", "--data", data, "--checkpoint", weights, "--out", "made")
    succeed("finetune", "--from", "made", "--epochs", 1, "--out", "longer")
    succeed("export", "--from", "longer", "--target", "ort", "--out", "artifact")
    done = succeed("bench", "artifact", "--json")
    fp32, int8 = json.loads(done.out)["rows"]
    assert fp32["agreement"] == 1.0
    assert 0.3 < int8["agreement"] <= 1.0


def test_search_repeats_itself_with_a_teacher_for_labels(weights: str) -> None:
    data = photographs("photos")
    change("search.rules", finetune_due=0.0)
    options = ("--data", data, "--checkpoint", weights)
    succeed("search", *options, "--out", "one", "--budget", 5)
    succeed("search", *options, "--out", "two", "--budget", 2)
    succeed("search", "--resume", "two", "--budget", 5)
    assert rows(Path("one")) == rows(Path("two"))


def test_agreement_can_be_asked_of_images_with_foreign_labels(weights: str) -> None:
    for number, name in enumerate(("cat", "dog")):
        photographs(f"part{number}", 60)
        Path("pets").mkdir(exist_ok=True)
        Path(f"part{number}").rename(Path("pets", name))
    profile = Path("tiny.toml").read_text()
    Path("tiny.toml").write_text('metric = "agreement"\n' + profile)
    succeed("transfer", "--strategy", "Q", "--data", "folder:pets", "--checkpoint", weights, "--out", "made")
    assert json.loads(Path("made/checkpoint/checkpoint.json").read_text())["metrics"]["metric"] == "agreement"


def test_number_of_outputs_is_the_weights_own(weights: str) -> None:
    values = load_file(weights)
    head = {name: value[:7].clone() for name, value in values.items() if value.shape[:1] == (10,)}
    assert head
    save_file({**values, **head}, "seven.safetensors")
    data = photographs("photos")
    succeed("transfer", "--strategy", "Q", "--data", data, "--checkpoint", "seven.safetensors", "--out", "made")
    assert json.loads(Path("made/checkpoint/checkpoint.json").read_text())["model"]["n_classes"] == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("transfer", "--strategy", "Q"), "cannot be trained on data set 'folder:photos' without labels"),
        (("train",), "cannot be trained on data set 'folder:photos' without labels"),
        (("transfer", "--strategy", "Q", "--checkpoint", "net.safetensors", "--new-head"), "without --new-head"),
    ],
)
def test_what_needs_labels_says_so(arguments: tuple[str, ...], said: str, weights: str) -> None:
    data = photographs("photos")
    before = files()
    done = run(*arguments, "--data", data)
    assert done.code == 2
    assert said in refused_line(done)
    assert files() == before


def test_bench_of_another_metric_says_that_it_needs_labels(home: Path) -> None:
    data = photographs("photos")
    done = run("bench", "runs/export-ort-1", "--data", data)
    assert done.code == 2
    assert "has no labels, since its images lie in no folders by class; accuracy needs them" in refused_line(done)


def test_regression_says_that_it_needs_labels(weights: str) -> None:
    data = photographs("photos")
    Path("tiny.toml").write_text('metric = "mae"\n' + Path("tiny.toml").read_text())
    done = run("transfer", "--strategy", "Q", "--data", data, "--checkpoint", weights)
    assert done.code == 2
    assert "mean absolute error needs them" in refused_line(done)


def test_workers_answer_with_the_same_network(weights: str) -> None:
    pytest.importorskip("ray")
    data = photographs("photos")
    change("search.rules", finetune_due=0.0)
    change("search", budget=4, window=2)
    options = ("--data", data, "--checkpoint", weights)
    succeed("search", *options, "--out", "one")
    succeed("search", *options, "--out", "two", "--workers", 2)
    assert rows(Path("one")) == rows(Path("two"))


def test_layers_are_analysed_without_labels(weights: str) -> None:
    data = photographs("photos")
    done = succeed("analyze", "--data", data, "--checkpoint", weights, "--out", "analysed")
    assert "agr." in done.out or "agreement" in done.out
    assert any("agreement" in path.read_text() for path in Path("analysed").glob("*.json"))

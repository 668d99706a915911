"""Whatever a user gets wrong: one line that begins with "error:", exit code 1 or 2, and nothing half-written."""

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Outcome, change, files, run, succeed
from PIL import Image

from nacdeploy import models
from nacdeploy.profile import shipped_names

Prepare = Callable[[], object]
TRANSFER = "transfer --strategy Q "
QEF = "runs/transfer-QEF-1/checkpoint"
ARTIFACT = "runs/export-ort-1"
STEP = {"link": "X", "decision": {}, "n_epochs": 0}


def refused(*arguments: object) -> Outcome:
    """`run`, which must fail in one line and leave every folder as it was; lines of progress may come before."""
    before = files()
    done = run(*arguments)
    *progress, error = done.err.splitlines()
    assert done.code in (1, 2)
    assert done.out == ""
    assert error.startswith("error: ")
    assert not any("error" in line.lower() or "Traceback" in line for line in progress)
    assert files() == before
    return done


def write(path: str, text: str) -> Prepare:
    return lambda: Path(path).write_text(text)


def edit(path: str, **values: Any) -> Prepare:
    """Give keys of a JSON file other values."""

    def prepare() -> None:
        content = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps({**content, **values}))

    return prepare


def images(*, classes: int = 2, n: int = 6, odd_size: int = 8) -> Prepare:
    """A folder of images, 8x8 but for one of them."""

    def prepare() -> None:
        generator = np.random.default_rng(0)
        for label in range(classes):
            directory = Path(f"images/class{label}")
            directory.mkdir(parents=True)
            for i in range(n):
                size = odd_size if i == 0 else 8
                pixels = generator.integers(0, 256, (size, size), dtype=np.uint8)
                Image.fromarray(pixels).save(directory / f"{i}.png")
        text = Path("tiny.toml").read_text()
        Path("tiny.toml").write_text(text.replace("input_size = 8\n", ""))

    return prepare


def broken_image() -> None:
    images()()
    Path("images/class0/0.png").write_bytes(b"no image")


def weights(**changes: Any) -> dict[str, Any]:
    """The values of an untrained network of the tiny profile, some of them changed."""
    spec = models.resolve("resnet8", n_classes=10, channels=1, input_size=(8, 8), width=8)
    return {**spec.build().state_dict(), **changes}


class Bomb:
    """Unpickling this would make a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("BOOM",)


WRONG_NAMES: list[tuple[str, str]] = [
    ("serch", "unknown command 'serch'; did you mean 'search'?"),
    ("search --foo", "No such option '--foo'"),
    ("search --budget 0", "Invalid value for '--budget'"),
    ("search --budget many", "Invalid value for '--budget'"),
    ("search --max-drop -1", "Invalid value for '--max-drop'"),
    ("search --seed -1", "Invalid value for '--seed'"),
    ("search --width nan", "width: Input should be a finite number"),
    ("search --searcher beem", "unknown searcher 'beem'; did you mean 'beam'?; known: beam, dqn, random, surrogate"),
    ("search --model resnet9", "unknown model 'resnet9'; did you mean 'resnet8'?"),
    ("search --model torchvision:resnet19", "did you mean 'resnet18'?"),
    ("search --model torchvision:resnet18 --width 2", "width 2 is for built-in models only"),
    ("search --model nothing.py:factory", "model file nothing.py cannot be read"),
    ("search --data digit", "unknown data set 'digit'; did you mean 'digits'?"),
    ("search --data folder:nowhere", "folder nowhere does not exist"),
    ("search --data fashion-mnist:nowhere", "needs the four files"),
    ("search --profile dem", "unknown profile 'dem'; did you mean 'demo'?"),
    ("search --profile none.toml", "profile file none.toml does not exist"),
    ("search --resume runs/none", "is no search run"),
    ("search --resume runs/search-1 --out other", "leave --out away"),
    ("search --resume runs/search-1 --model resnet20", "leave --model away"),
    ("search --out runs/search-1", "exists already"),
    ("search --out tiny.toml", "exists already"),
    ("search --out tiny.toml/below", "tiny.toml is a file"),
    (f"search --out {'x' * 300}", "File name too long"),
    ("transfer", "Missing option '--strategy'"),
    ("transfer --strategy QXP", "unknown operator 'X' at position 2 of 'QXP'; known: F P E Q"),
    ("transfer --strategy QÜ", "cannot read 'Ü' at position 2"),
    ("transfer --strategy P(rato=0.1)", "unknown parameter 'rato' of P; did you mean 'ratio'?"),
    ("transfer --strategy P(ratio=99)", "Input should be less than 1"),
    ("transfer --strategy catalog:nac-resnet35-cifar10", "did you mean 'nac-resnet34-cifar10'?"),
    ("transfer --strategy none.json", "none.json does not exist"),
    ("transfer --strategy Q --post-finetune 0", "Invalid value for '--post-finetune'"),
    ("transfer --strategy Q --checkpoint nowhere", "does not exist"),
    ("transfer --strategy Q --checkpoint runs", "is no checkpoint folder"),
    ("transfer --strategy Q --checkpoint tiny.toml", "a .safetensors file or a .pt file"),
    (f"transfer --strategy Q --checkpoint {QEF}", "is compressed already ('QEF')"),
    ("finetune", "Missing option '--from'"),
    ("finetune --from runs/export-ort-1", "holds no checkpoint"),
    (
        "export --target tensorrt",
        "unknown target 'tensorrt'; did you mean 'torch-trt'?; known: onnx, openvino, ort, torch-trt, trt, trt-rtx",
    ),
    ("export --from tiny.toml", "tiny.toml holds no checkpoint"),
    ("bench", "Missing argument 'ARTIFACTS...'"),
    (f"bench {ARTIFACT} --batch 0", "Invalid value for '--batch'"),
    ("bench runs/search-1", "is not an artifact"),
    ("show nothing.json", "nothing.json does not exist"),
]


@pytest.mark.parametrize(("line", "expected"), WRONG_NAMES)
def test_wrong_call_is_one_line_that_says_what_would_work(line: str, expected: str, home: Path) -> None:
    done = refused(*line.split())
    assert expected in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("table", "values", "expected"),
    [
        ("search", {"budgets": 3}, "unknown key 'search.budgets'; did you mean 'budget'?"),
        ("search.rules", {"max_prune": 3}, "unknown key 'search.rules.max_prune'; did you mean 'max_prunes'?"),
        ("search", {"objective": "nacc"}, "search.objective: unknown objective 'nacc'; did you mean 'nac'?"),
        ("search", {"figure": "macz"}, "search.figure: unknown figure 'macz'; did you mean 'macs'?"),
        ("search", {"objectives": ["accuracy", "byts"]}, "search.objectives: unknown figure 'byts'; did you mean"),
        ("search", {"objectives": ["bytes"]}, "several objectives are at least two"),
        (
            "search",
            {"objective": "nac", "objectives": ["bytes", "macs"]},
            "search.objectives goes with objective = 'pareto', not with 'nac'",
        ),
        (
            "search",
            {"latency_table": "layers.json"},
            "search.latency_table goes with latency = 'table', or with a time",
        ),
        ("search", {"searcher": "grid"}, "unknown searcher 'grid'"),
        ("search", {"alphabet": ""}, "has no letter that compresses"),
        ("search", {"alphabet": "F"}, "has no letter that compresses"),
        ("search", {"alphabet": "FPX"}, "unknown operator 'X'"),
        ("search", {"alphabet": "fpq"}, "unknown operator 'f'"),
        ("train", {"learning_rate": 1e30}, "the loss is not a number; a lower learning_rate"),
    ],
)
def test_wrong_profile_is_refused(table: str, values: dict[str, Any], expected: str, home: Path) -> None:
    change(table, **values)
    assert expected in refused("search").err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('modle = "resnet8"', "unknown option 'modle'; did you mean 'model'?"),
        ("[images]\ninput_size = 8", "unknown option 'images'"),
        ("[profile]\nbudget = 3", "'profile' is a table"),
        ('profile = ["tiny.toml"]', "'profile' takes one value"),
        ("budget = 2.5", "Invalid value for '--budget'"),
        ("budget = = 2", "is not readable TOML"),
    ],
)
def test_wrong_settings_file_is_refused(content: str, expected: str, home: Path) -> None:
    Path("nacdeploy.toml").write_text(content)
    assert expected in refused("search").err


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda: Path("images").mkdir(), "no class folders"),
        (images(n=0), "holds no images"),
        (images(n=2), "to split into 3 it needs 3 or more"),
        (images(classes=1), "one class only, 'class0'"),
        (broken_image, "0.png is not a readable image"),
    ],
)
def test_wrong_image_folder_is_refused(prepare: Prepare, expected: str, home: Path) -> None:
    prepare()
    assert expected in refused(*(TRANSFER + "--data folder:images").split()).err


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def factory(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def factory(): raise ValueError('first line\\nsecond line')", "failed: ValueError: first line"),
        ("def factory(unknown): pass", "missing 1 required positional argument"),
        ("def factory(): return 3", "returned int, not a torch.nn.Module"),
        ("factory = 3", "has no function 'factory'"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        (
            "from torch import nn\ndef factory():\n    return nn.Sequential(nn.MaxPool2d((8, 1)), nn.Flatten())",
            "has no convolution and no Linear layer",
        ),
        (
            "from torch import nn\ndef factory():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))",
            "returns shape (1, 3); needed: (1, 10)",
        ),
        (
            "from torch import nn\ndef factory():\n    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))",
            "fails: RuntimeError",
        ),
    ],
)
def test_own_network_that_fails_is_refused(source: str, expected: str, home: Path) -> None:
    Path("net.py").write_text(source)
    assert expected in refused(*(TRANSFER + "--model net.py:factory").split()).err


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lambda: torch.nn.Linear(2, 2), "holds more than tensors"),
        (Bomb, "holds more than tensors"),
        (lambda: [1, 2], "holds no state dict"),
        (lambda: torch.nn.Linear(2, 2).state_dict(), "does not fit the model"),
        (lambda: weights(**{"classifier.bias": torch.zeros(3)}), "'classifier.bias' is (3,), the model has (10,)"),
        (
            lambda: weights(**{"classifier.bias": torch.full((10,), torch.nan)}),
            "'backbone.classifier.bias' holds values",
        ),
    ],
)
def test_wrong_weights_are_refused(values: Callable[[], object], expected: str, home: Path) -> None:
    torch.save(values(), "w.pt")
    assert expected in refused(*(TRANSFER + "--checkpoint w.pt").split()).err


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"PK\x03\x04 and no more"])
def test_file_that_holds_no_weights_is_refused(name: str, content: bytes, home: Path) -> None:
    Path(name).write_bytes(content)
    assert name in refused(*(TRANSFER + f"--checkpoint {name}").split()).err


@pytest.mark.parametrize(
    ("line", "prepare", "expected"),
    [
        ("export", write("runs/last.json", "{"), "is not readable JSON"),
        ("export", write("runs/last.json", "[]"), "is not a valid Last"),
        ("export", write("runs/last.json", "{}"), "result: Field required"),
        ("export", lambda: shutil.rmtree("runs/transfer-QEF-1"), "is gone; name another with --from"),
        ("export", lambda: shutil.rmtree("runs"), "nothing in runs/ yet"),
        ("search --resume runs/search-1", write("runs/search-1/run.json", "{"), "is not readable JSON"),
        ("search --resume runs/search-1", write("runs/search-1/run.json", "[]"), "is not a valid Run"),
        ("search --resume runs/search-1", write("runs/search-1/run.json", '{"profile": 3}'), "is not a valid Run"),
        ("search --resume runs/search-1", write("runs/search-1/journal.jsonl", "{}\n{}\n"), "is not a journal"),
        ("show runs/search-1", write("runs/search-1/result.json", '{"kind": "search"}'), "is not a valid Result"),
        ("show runs/search-1", write("runs/search-1/result.json", "[]"), "is not a valid Result"),
        (
            "transfer --strategy runs/search-1",
            write("runs/search-1/strategy.json", '{"chain": "Q", "settings": {"prune": {"ration": 1}}}'),
            "unknown key 'prune.ration'; did you mean 'ratio'?",
        ),
        ("transfer --strategy runs/search-1", write("runs/search-1/strategy.json", "[]"), "is not a valid Strategy"),
        ("export", write(f"{QEF}/checkpoint.json", '{"schema": 9}'), "schema 9"),
        ("export", edit(f"{QEF}/checkpoint.json", data={}), "has changed since"),
        ("export", edit(f"{QEF}/checkpoint.json", profile={}), "name: Field required"),
        ("export", edit(f"{QEF}/checkpoint.json", steps=[STEP]), "unknown operator 'X'; known: F P"),
        ("export", edit(f"{QEF}/checkpoint.json", steps=[]), "its chain is 'QEF', and its steps are ''"),
        ("export", edit(f"{QEF}/checkpoint.json", chain="QX"), "unknown operator 'X' of the checkpoint's chain 'QX'"),
        ("export", lambda: Path(f"{QEF}/model.safetensors").unlink(), "does not exist"),
        ("export", lambda: os.truncate(f"{QEF}/model.safetensors", 500), "is not a readable safetensors file"),
        ("finetune --from runs/search-1", lambda: shutil.rmtree("runs/baselines"), "is gone: its test score is needed"),
        (f"bench {ARTIFACT}", lambda: shutil.rmtree("runs/baselines"), "give an FP32 artifact with --baseline"),
        (f"bench {ARTIFACT}", lambda: os.truncate(f"{ARTIFACT}/model.onnx", 500), "model.onnx is damaged"),
        (f"show {ARTIFACT}", lambda: Path(f"{ARTIFACT}/lowering.json").unlink(), "lowering.json is missing"),
        (f"bench {ARTIFACT}", write(f"{ARTIFACT}/manifest.json", "[]"), "has schema None"),
        (f"bench {ARTIFACT}", edit(f"{ARTIFACT}/manifest.json", data={"name": "digits"}), "images: Field required"),
        (f"bench {ARTIFACT}", edit(f"{ARTIFACT}/manifest.json", baseline={"checkpoint": None}), "--baseline"),
        (
            f"bench {ARTIFACT} --baseline {ARTIFACT}",
            edit(f"{ARTIFACT}/manifest.json", gate={"exits": [{"output": "exit"}]}),
            "threshold: Field required",
        ),
        (
            f"bench {ARTIFACT} --baseline {ARTIFACT}",
            edit(f"{ARTIFACT}/manifest.json", gate={"exits": [{"output": "x", "threshold": 0.5, "place": "y"}]}),
            "names the output 'x'",
        ),
        (f"bench {ARTIFACT} --baseline {ARTIFACT}", edit(f"{ARTIFACT}/manifest.json", inputs=[]), "and the inputs []"),
        (f"bench {ARTIFACT} --baseline {ARTIFACT} --data folder:images", images(), "other classes"),
    ],
)
def test_damaged_record_is_named(line: str, prepare: Prepare, expected: str, home: Path) -> None:
    prepare()
    assert expected in refused(*line.split()).err


def test_changed_images_are_noticed_between_transfer_and_export(home: Path) -> None:
    images()()
    succeed(*(TRANSFER + "--data folder:images").split())
    shutil.copy("images/class0/0.png", "images/class1/1.png")
    assert "has changed since the checkpoint was made" in refused("export").err


def test_flipped_bit_in_an_artifact_is_found(home: Path) -> None:
    model = Path(ARTIFACT, "model.onnx")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert "model.onnx is damaged: its sha256" in refused("bench", ARTIFACT).err


def test_training_that_diverges_in_f_stops_the_transfer(home: Path) -> None:
    change("finetune", learning_rate=1e30)
    assert "the loss is not a number" in refused("transfer", "--strategy", "QF").err


@pytest.mark.parametrize(
    ("settings", "code", "expected"),
    [
        ({"compute_capabilities": ["SM88"]}, 2, "unknown compute capability 'SM88'"),
        ({"compute_capabilities": ["SM90"]}, 1, "TensorRT-RTX does not build for SM90: install TensorRT proper"),
        ({"compute_capabilities": ["SM75"], "float_type": "fp32"}, 2, "no FP32 matrix multiplication for SM75"),
        ({"io_type": "fp16", "float_type": "fp32"}, 2, "io_type = 'fp16' needs float_type = 'fp16'"),
    ],
)
def test_engine_settings_are_refused_before_any_work(
    settings: dict[str, object], code: int, expected: str, home: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    change("export", **settings)
    done = refused("export", "--target", "trt", "--profile", "tiny.toml")
    assert (done.code, expected in done.err) == (code, True), done.err
    assert "exporting" not in done.err


def test_missing_extra_names_its_pip_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    done = refused(*(TRANSFER + "--model timm:resnet18").split())
    assert (done.code, "pip install 'nacdeploy[timm]'" in done.err) == (1, True)


def test_failed_download_leaves_no_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    assert "cannot download cifar10 to nowhere" in refused(*(TRANSFER + "--data cifar10:nowhere").split()).err


@pytest.mark.parametrize(
    "line",
    [
        "train --out new",
        "transfer --strategy QP --out new",
        "finetune --from runs/search-1 --out new",
        "export --from runs/search-1 --out new",
    ],
)
def test_full_disk_leaves_nothing_behind(line: str, home: Path) -> None:
    succeed("train", "--out", "elsewhere", "--epochs", 1)
    with files_of_at_most(10_000):
        done = refused(*line.split())
    assert done.code == 1
    assert "File too large; free some space or choose another --out" in done.err


def test_search_on_a_full_disk_goes_on_when_there_is_space(home: Path) -> None:
    with files_of_at_most(10_000):
        done = run("search", "--out", "new")
    assert (done.code, done.err.splitlines()[-1][:6]) == (1, "error:")
    succeed("search", "--resume", "new")


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="where nobody can write is known of Linux")
def test_place_that_cannot_be_written_to_is_found_before_the_work(home: Path) -> None:
    Path("runs").rename("kept")
    Path("runs").symlink_to("/proc/self/fdinfo")
    for line in ("search", "transfer --strategy Q", "train", "export --from kept/search-1"):
        done = run(*line.split())
        (said,) = done.err.splitlines()
        assert done.code == 1
        assert said.startswith("error: runs is not writable (")
    done = run("train", "--out", "/proc/self/fdinfo/out")
    assert done.code == 1


def test_file_in_place_of_the_runs_folder_is_found_before_the_work(home: Path) -> None:
    shutil.rmtree("runs")
    Path("runs").write_text("a file")
    assert len(refused("search").err.splitlines()) == 1


def test_all_shipped_profiles_are_named_where_one_is_unknown(home: Path) -> None:
    assert all(name in refused("search", "--profile", "xyz").err for name in shipped_names())


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("images", {"n_validation": 2}),
        ("images", {"n_train": 2}),
        ("images", {"n_train": 51}),
        ("train", {"batch_size": 999}),
    ],
)
def test_odd_sizes_of_splits_and_batches_work(table: str, values: dict[str, Any], home: Path) -> None:
    change(table, **values)
    succeed("transfer", "--strategy", "QF")


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """A disk that is nearly full, as the process sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_fp16_inputs_are_refused_where_the_target_has_none(home: Path) -> None:
    Path("fp16.toml").write_text(Path("tiny.toml").read_text().replace("[export]", '[export]\nio_type = "fp16"'))
    before = files()
    done = refused("export", "--target", "ort", "--profile", "fp16.toml")
    assert "export.io_type = 'fp16' is for 'trt', 'trt-rtx'" in done.err
    assert files() == before

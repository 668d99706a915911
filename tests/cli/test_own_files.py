"""A user's own files at the command line: his model file and its project, and the checkpoints of others."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import Outcome, files, lay_out, refused_line, run, succeed

from nacdeploy.models.users import trust

BLOCKS = """
from torch import nn

def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
"""
NET = """
from pathlib import Path
from torch import nn
from blocks import block
print("importing the network")
Path(__file__).with_name("RUN").touch()

class Net(nn.Sequential):
    def forward(self, x):
        print("forward")
        return super().forward(x)

def net(n_classes, channels):
    print("made")
    return Net(block(channels, 8), block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes))
"""
TRANSFER = ("transfer", "--strategy", "P")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with net.py and its blocks.py, as the current one."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("blocks.py").write_text(BLOCKS)
    return lay_out(tmp_path)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which somebody else made results with net.py; no test changes it."""
    folder = lay_out(tmp_path_factory.mktemp("theirs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("net.py").write_text(NET)
        Path("blocks.py").write_text(BLOCKS)
        succeed(*TRANSFER, "--model", "net.py:net")
        succeed("train", "--model", "net.py:net", "--out", "trained")
        succeed("search", "--model", "net.py:net", "--budget", 1)
        succeed("export", "--from", "runs/transfer-P-1", "--target", "onnx")
        Path("RUN").unlink()
    return folder


@pytest.fixture
def strangers(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What somebody else made, as the current folder of a user who has named nothing: net.py has not run for him."""
    shutil.copytree(theirs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(trust.VARIABLE, str(tmp_path / "another"))
    monkeypatch.setattr(trust, "_accepted", set())
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "export --from runs/transfer-P-1",
        "finetune --from runs/transfer-P-1",
        "transfer --strategy Q --checkpoint trained",
        "report runs/transfer-P-1",
        "bench runs/export-onnx-1",
        "search --resume runs/search-1",
        "search --resume runs/search-1 --fork --budget 2",
    ],
)
def test_file_that_only_a_record_names_is_not_run(line: str, strangers: Path) -> None:
    before = files()
    done = run(*line.split())
    assert (done.code, done.out) == (2, "")
    assert "net.py is code that only a record names, and is not run: pass --model net.py:net" in refused_line(done)
    assert files() == before
    assert not Path("RUN").exists()


@pytest.mark.parametrize(
    "line",
    [
        "export --from runs/transfer-P-1 --target onnx",
        "finetune --from runs/transfer-P-1",
        "bench runs/export-onnx-1 --batch 1",
        "search --resume runs/search-1",
    ],
)
def test_file_that_the_user_names_is_run_then_and_later(line: str, strangers: Path) -> None:
    succeed(*line.split(), "--model", "net.py:net")
    assert Path("RUN").exists()
    trust._accepted.clear()
    succeed("report", "runs/transfer-P-1")


def test_file_that_the_folder_s_settings_name_is_run(strangers: Path) -> None:
    with Path("nacdeploy.toml").open("a") as settings:
        settings.write('model = "net.py:net"\n')
    succeed("search", "--resume", "runs/search-1")
    assert Path("RUN").exists()


def test_profile_names_no_code_to_run(strangers: Path) -> None:
    text = Path("tiny.toml").read_text().replace('model = "resnet8"\nwidth = 8\n', 'model = "net.py:net"\n')
    Path("tiny.toml").write_text(text)
    assert "pass --model net.py:net" in refused_line(run(*TRANSFER))
    assert not Path("RUN").exists()


def test_script_that_only_a_run_names_is_not_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_of_script("train.py", REPORTS)
    folder = succeed("compress", "e.json", "--script", "train.py", "--json").json["folder"]
    assert Path("RUN").read_text() == "."
    monkeypatch.setenv(trust.VARIABLE, "another")
    monkeypatch.setattr(trust, "_accepted", set())
    for asked in (("e.json",), ("--resume", folder)):
        done = run("compress", *asked)
        assert "train.py is code that only a record names, and is not run: pass --script train.py" in refused_line(done)
    assert Path("RUN").read_text() == "."
    assert not Path("runs/compress-e-2").exists()
    succeed("compress", "--resume", folder, "--script", "train.py")


def experiment_of_script(name: str, text: str) -> None:
    """e.json, which runs the script `name` of this text."""
    Path(name).write_text(text)
    table = {"framework": "torch", "compressor": "level", "config_list": [{"sparsity": 0.5}]}
    Path("e.json").write_text(json.dumps({"name": "e", "script": name, "compression": table}))


REPORTS = "from nacdeploy.experiments import report_result\nopen('RUN', 'a').write('.')\nreport_result(0.5)\n"


def test_script_runs_once_it_is_named_and_not_when_it_has_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trust.VARIABLE, str(project / "settings"))
    experiment_of_script("train.py", REPORTS)
    assert "pass --script train.py if you trust it" in refused_line(run("compress", "e.json"))
    succeed("trust", "train.py")
    succeed("compress", "e.json")
    Path("train.py").write_text(REPORTS + "# changed\n")
    assert "pass --script train.py if you trust it" in refused_line(run("compress", "e.json"))
    with Path("nacdeploy.toml").open("a") as settings:
        settings.write('script = "train.py"\n')
    succeed("compress", "e.json")
    assert Path("RUN").read_text() == ".."


def test_changed_module_of_a_script_is_not_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trust.VARIABLE, str(project / "settings"))
    experiment_of_script("train.py", f"import blocks\n{REPORTS}")
    succeed("compress", "e.json", "--script", "train.py")
    Path("blocks.py").write_text("open('ELSE', 'w')\n")
    assert "pass --script train.py if you trust it" in refused_line(run("compress", "e.json"))
    assert not Path("ELSE").exists()


def test_script_in_another_language_is_named_like_any_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trust.VARIABLE, str(project / "settings"))
    experiment_of_script("train.sh", f"#!/bin/sh\nexec {sys.executable} train.py $1\n")
    Path("train.py").write_text(REPORTS)
    Path("train.sh").chmod(0o755)
    assert "pass --script train.sh if you trust it" in refused_line(run("compress", "e.json"))
    succeed("trust", "train.sh")
    succeed("compress", "e.json")
    succeed("trust", "train.sh", "--remove")
    assert "pass --script train.sh if you trust it" in refused_line(run("compress", "e.json"))


@pytest.mark.parametrize(
    ("script", "said"), [("blocks.py", "e.json runs the script"), ("nowhere.py", "e.json runs the script")]
)
def test_another_script_than_the_experiment_s_is_refused(script: str, said: str, project: Path) -> None:
    experiment_of_script("train.py", REPORTS)
    assert said in refused_line(run("compress", "e.json", "--script", script))
    assert not Path("RUN").exists()


def test_changed_module_of_a_project_trains_the_baseline_anew_and_is_refused_for_results(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trust.VARIABLE, str(project / "settings"))  # other copies are known to the other tests
    succeed(*TRANSFER, "--model", "net.py:net", "--out", "first")
    Path("blocks.py").write_text(BLOCKS.replace("ReLU", "Tanh"))
    done = succeed(*TRANSFER, "--model", "net.py:net", "--out", "second")
    assert "trained the baseline" in done.err
    refused = run("export", "--from", "first")
    assert "net.py with what it imports (blocks) has changed" in refused_line(refused)


def test_checkpoint_of_a_file_that_changed_since_gives_its_weights(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trust.VARIABLE, str(project / "settings"))
    succeed(*TRANSFER, "--model", "net.py:net", "--out", "first")
    checkpoint = next(Path("runs/baselines").iterdir())
    Path("blocks.py").write_text(BLOCKS + "\n# tidied up\n")
    done = succeed(*TRANSFER, "--model", "net.py:net", "--checkpoint", checkpoint, "--out", "second")
    assert "was trained by another version of net.py:net; its weights fit this one too" in done.err
    succeed("export", "--from", "second", "--out", "artifact")  # which reads the baseline too
    succeed("report", "second")


def test_results_are_used_from_another_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*TRANSFER, "--model", "net.py:net")
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    succeed("export", "--from", "../runs/transfer-P-1", "--target", "onnx", "--no-wandb")
    succeed("finetune", "--from", "../runs/transfer-P-1", "--no-wandb")


def in_process(*arguments: str) -> Outcome:
    """A command in a process of its own, where descriptors are real."""
    command = [sys.executable, "-m", "nacdeploy.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_what_a_network_prints_goes_to_stderr_under_json(project: Path) -> None:
    native = "import os\nos.write(1, b'native')\nos.system('echo child')\n"
    Path("net.py").write_text(NET.replace("\ndef net", f"\n{native}\ndef net"))
    done = in_process(*TRANSFER, "--model", "net.py:net", "--json")
    assert done.code == 0, done.err
    assert done.json["chain"] == "P"
    for said in ("importing the network", "made", "forward", "native", "child"):
        assert said in done.err
    exported = succeed("export", "--target", "onnx", "--json")
    assert exported.json["artifact"]


def test_head_of_other_classes_is_replaced_and_trained_when_asked_for(project: Path) -> None:
    from nacdeploy import models

    models.name_by_user("net.py:net")
    other = models.resolve("net.py:net", n_classes=7, channels=1, input_size=(8, 8)).build()
    torch.save({"state_dict": other.state_dict()}, "w.pth.tar")
    arguments = (*TRANSFER, "--model", "net.py:net", "--checkpoint", "w.pth.tar")
    assert "it knows other classes; --new-head" in refused_line(run(*arguments))
    done = succeed(*arguments, "--new-head", "--json")
    assert "a new head in place of '4.weight', '4.bias'" in done.err
    assert "trained the baseline" in done.err
    again = succeed(*arguments, "--new-head", "--json")
    assert "baseline from runs/baselines/" in again.err
    assert again.json["baseline_checkpoint"] == done.json["baseline_checkpoint"]


def flip(path: Path) -> None:
    """Change one bit in the last tensor of a file."""
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("line", ["export", "finetune --from runs/transfer-QEF-1", "report runs/transfer-QEF-1"])
def test_flipped_bit_in_a_checkpoint_is_refused(line: str, home: Path) -> None:
    flip(Path("runs/transfer-QEF-1/checkpoint/model.safetensors"))
    done = run(*line.split())
    assert done.code == 2
    assert "model.safetensors is damaged: its sha256 is not the one that was recorded" in refused_line(done)


@pytest.mark.parametrize("line", ["transfer --strategy Q", "finetune --from runs/search-1", "search"])
def test_flipped_bit_in_a_baseline_is_refused(line: str, home: Path) -> None:
    (baseline,) = Path("runs/baselines").iterdir()
    flip(baseline / "model.safetensors")
    done = run(*line.split())
    assert done.code == 2
    assert f"{baseline}/model.safetensors is damaged" in refused_line(done)


def test_checkpoint_of_before_checksums_is_read(home: Path) -> None:
    path = Path("runs/transfer-QEF-1/checkpoint/checkpoint.json")
    record = json.loads(path.read_text())
    assert len(record.pop("values_sha256")) == 64
    path.write_text(json.dumps(record))
    succeed("export", "--target", "onnx")


def test_two_runs_at_once_leave_two_results(home: Path) -> None:
    lines = [["transfer", "--strategy", "PQ", "--seed", str(seed), "--json"] for seed in (0, 1)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "nacdeploy.cli.main", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for line in lines
    ]
    results = [json.loads(process.communicate()[0]) for process in started]
    assert {result["folder"] for result in results} == {"runs/transfer-PQ-1", "runs/transfer-PQ-2"}
    for result in results:
        kept = json.loads(Path(result["folder"], "result.json").read_text())
        assert kept["baseline_checkpoint"] == result["baseline_checkpoint"]


@pytest.mark.parametrize(
    "line",
    ["train --epochs 1", "transfer --strategy Q", "search", "export", "analyze --techniques quantize", "decode m.nac"],
)
def test_folder_that_another_run_writes_is_refused_at_the_start(line: str, home: Path) -> None:
    succeed("encode", "runs/export-ort-1", "-o", "m.nac")
    option = "-o" if line.startswith("decode") else "--out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "taken"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    before = files()
    done = run(*line.split(), option, "taken")
    assert done.code == 1
    assert "taken is being written by another run; choose another --out" in refused_line(done)
    assert files() == before
    holder.kill()
    holder.wait()
    succeed(*line.split(), option, "taken")


HOLD = """
import sys
from pathlib import Path
from nacdeploy.base import folders
with folders.reserved(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.mark.parametrize("line", ["transfer --strategy Q", "train --epochs 1", "search", "export", "decode m.nac"])
@pytest.mark.parametrize("kind", ["link", "here"])
def test_out_that_is_a_link_or_the_current_folder_holds_the_result(
    line: str, kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed("encode", "runs/export-ort-1", "-o", "m.nac")
    Path("real").mkdir()
    Path("link").symlink_to("real")
    out = "link"
    if kind == "here":
        source = str(home / "runs/transfer-QEF-1")
        line = line.replace("m.nac", str(home / "m.nac")).replace("export", f"export --from {source}")
        line += "" if "decode" in line or "export" in line else f" --profile {home / 'tiny.toml'}"
        monkeypatch.chdir("real")
        out = "."
    succeed(*line.split(), "-o" if "decode" in line else "--out", out)
    left = {path.name for path in (home / "real").iterdir()}
    assert len(left & {"checkpoint.json", "result.json", "manifest.json"}) == 1
    assert not [name for name in left if name.startswith(".nacdeploy")]
    assert (home / "link").is_symlink()

"""What the commands do for a user, with a profile of seconds on embedded data."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from command_line import change, files, lay_out, refused_line, run, succeed
from safetensors.torch import save_file

from nacdeploy import models
from nacdeploy.cli.main import COMMANDS, cli
from nacdeploy.sessions import session

SCRIPT = str(Path(sys.executable).with_name("nacdeploy"))
NET = """
from torch import nn


def factory(n_classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_classes),
    )
"""


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the baselines that are trained from here on."""
    folders: list[Path] = []
    train_baseline = session.train_baseline

    def counted(folder: Path, *rest: Any) -> Any:
        folders.append(folder)
        return train_baseline(folder, *rest)

    monkeypatch.setattr(session, "train_baseline", counted)
    return folders


def test_three_commands_work_in_an_empty_folder_as_written(tmp_path: Path) -> None:
    lay_out(tmp_path)
    results = [
        subprocess.run([SCRIPT, *line.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
        for line in ("search", "transfer --strategy QPPF", "export --target trt")
    ]
    assert [r.returncode for r in results] == [0, 0, 0], [r.stderr for r in results]
    assert not any("\x1b" in stream for r in results for stream in (r.stdout, r.stderr))
    searched, transferred, exported = results
    assert "trained the baseline resnet8 on digits" in searched.stderr
    assert "baseline from runs/baselines/" in transferred.stderr
    assert (tmp_path / "runs/search-1/strategy.json").is_file()
    assert (tmp_path / "runs/transfer-QPPF-1/checkpoint/model.safetensors").is_file()
    manifest = read(tmp_path / "runs/export-trt-1/manifest.json")
    assert manifest["chain"] == "QPPF", "export takes the result finished last"
    assert (tmp_path / "runs/export-trt-1" / manifest["engines"]["SM86"]).stat().st_size > 0
    assert "engine SM86" in exported.stdout


def test_help_of_every_command_imports_no_torch() -> None:
    lines = [["--help"], *([name, "--help"] for name in COMMANDS)]
    program = (
        "import sys\nfrom nacdeploy.cli.main import cli\n"
        f"for line in {lines!r}:\n    cli.main(line, standalone_mode=False)\n"
        "assert not {'torch', 'onnx', 'wandb'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == len(lines)


def test_list_of_commands_imports_none_of_them_and_no_record() -> None:
    program = (
        "import sys\nfrom nacdeploy.cli.main import COMMANDS, cli\ncli.main(['--help'], standalone_mode=False)\n"
        "found = {f'nacdeploy.cli.{name}' for name in COMMANDS} | {'pydantic', 'dataclasses', 'tomllib', 'tempfile'}\n"
        "print(sorted(found & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "  train     Train the FP32 baseline" in done.stdout
    assert done.stderr.strip() == "[]"


def test_list_of_commands_says_what_each_command_says_of_itself() -> None:
    context = click.Context(cli, max_content_width=80, terminal_width=80)
    commands = {name: cli.get_command(context, name) for name in COMMANDS}
    limit = context.make_formatter().width - 6 - max(map(len, COMMANDS))
    listed = cli.get_help(context).partition("Commands:\n")[2].splitlines()
    assert listed == [f"  {name:10}{command.get_short_help_str(limit)}" for name, command in commands.items()]
    assert [command.callback.__doc__ for command in commands.values()] == [None] * len(COMMANDS), "a second home"
    assert all(COMMANDS[name] in " ".join(command.get_help(context).split()) for name, command in commands.items())


def test_baseline_is_trained_once_for_one_model_data_seed_and_recipe(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = trainings(monkeypatch)
    succeed("transfer", "--strategy", "Q", "--dry-run")
    assert not folders, "search has trained it already"
    for arguments in (("--seed", 1), ("--width", 4), ("--model", "resnet20", "--width", 4)):
        succeed("transfer", "--strategy", "Q", "--dry-run", *arguments)
        succeed("transfer", "--strategy", "Q", "--dry-run", *arguments)
    change("train", epochs=1)
    succeed("transfer", "--strategy", "Q", "--dry-run")
    change("images", n_train=150)
    succeed("transfer", "--strategy", "Q", "--dry-run")
    assert len(folders) == len(set(folders)) == 5
    change("finetune", epochs=2)
    change("search", budget=2)
    succeed("transfer", "--strategy", "Q", "--dry-run")
    assert len(folders) == 5, "what a baseline does not depend on leaves it as it is"


@pytest.mark.parametrize(
    "line",
    [
        "search --budget 1",
        "transfer --strategy QP",
        "transfer --strategy QP --dry-run",
        "train --epochs 1",
        "finetune --from runs/search-1",
        "bench runs/export-ort-1 --baseline runs/export-ort-1",
        "show QPPF",
        "show runs/search-1",
        "doctor",
    ],
)
def test_json_is_the_only_output(line: str, home: Path) -> None:
    assert succeed(*line.split(), "--json").json


def test_progress_goes_to_stderr_without_bars_or_colour(home: Path) -> None:
    done = succeed("transfer", "--strategy", "QF")
    assert "on validation" in done.err
    assert "on validation" not in done.out
    assert "\x1b" not in done.err + done.out
    assert "epoch 1" not in done.err, "a bar belongs on a terminal"


def test_option_beats_settings_file_and_settings_file_beats_profile(home: Path) -> None:
    settings = Path("nacdeploy.toml")
    assert read("runs/search-1/result.json")["n_evaluations"] == 4
    settings.write_text(settings.read_text() + "budget = 2\n")
    assert succeed("search", "--json").json["n_evaluations"] == 2
    assert succeed("search", "--json", "--budget", 1).json["n_evaluations"] == 1


def test_settings_file_may_begin_with_a_byte_order_mark_and_say_how_images_are_normalised(home: Path) -> None:
    settings = Path("nacdeploy.toml")
    settings.write_text("\ufeff" + settings.read_text() + 'normalize = "0.5/0.25"\n', encoding="utf-8")
    said = succeed("train", "--epochs", 1).err
    assert "images normalised by mean 0.5 and deviation 0.25: as images.mean and images.std say" in said
    assert read("runs/train-1/checkpoint.json")["data"]["mean"] == [0.5]


def test_dry_run_writes_nothing_but_the_baseline(home: Path) -> None:
    before = files()
    rows = succeed("transfer", "--strategy", "QPEF", "--dry-run", "--json").json
    assert [row["link"] for row in rows] == ["Q", "P", "E", "F"]
    assert rows[1]["macs"] < rows[0]["macs"]
    assert files() == before
    succeed("transfer", "--strategy", "Q", "--dry-run", "--seed", 7)
    assert {path.parts[:2] for path in files() - before} == {("runs", "baselines")}


def test_refused_letter_stops_transfer_or_is_skipped_and_reported(home: Path) -> None:
    stopped = run("transfer", "--strategy", "QQQ")
    assert (stopped.code, stopped.out) == (1, "")
    assert "position 3 of 'QQQ'; --skip-refused" in stopped.err
    assert not Path("runs/transfer-QQQ-1").exists()
    done = succeed("transfer", "--strategy", "QQQP", "--skip-refused")
    assert "skipped Q at position 3" in done.out
    assert read("runs/transfer-QQQP-1/result.json")["chain"] == "QQP"


def test_post_finetune_trains_at_the_end(home: Path) -> None:
    result = succeed("transfer", "--strategy", "Q", "--post-finetune", 2, "--json").json
    assert (result["chain"][:2], result["n_epochs"]) == ("QF", 2)
    assert result["scores"]["n_control_epochs"] == 2


def test_published_strategy_is_applied(home: Path) -> None:
    rows = succeed("transfer", "--strategy", "catalog:nac-resnet34-cifar10", "--dry-run", "--skip-refused", "--json")
    shown = succeed("show", "catalog:nac-resnet34-cifar10", "--json").json
    assert shown["chain"].startswith("".join(row["link"] for row in rows.json)[:3])


def test_strategy_of_a_search_is_carried_over_to_another_model(home: Path) -> None:
    found = read("runs/search-1/strategy.json")
    result = succeed(
        *("transfer", "--strategy", "runs/search-1/strategy.json", "--json"),
        *("--model", "resnet20", "--width", 4),
    ).json
    assert (result["model"], result["chain"]) == ("resnet20", found["chain"])


def test_finetune_adds_an_f(home: Path) -> None:
    before = read("runs/search-1/result.json")
    after = succeed("finetune", "--from", "runs/search-1", "--epochs", 2, "--json").json
    assert after["chain"] == before["chain"] + "F(epochs=2)"
    assert after["n_epochs"] <= before["n_epochs"] + 2
    assert after["figures"]["bitops_ratio"] == pytest.approx(before["figures"]["bitops_ratio"])


def test_train_leaves_a_checkpoint_that_transfer_takes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("train", "--model", "resnet20", "--width", 4, "--epochs", 1, "--out", "mine")
    folders = trainings(monkeypatch)
    result = succeed("transfer", "--strategy", "Q", "--checkpoint", "mine", "--json").json
    assert (result["model"], result["baseline_checkpoint"], folders) == ("resnet20", "mine", [])


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("QPPF", "Quantize -> Prune -> Prune -> Finetune"),
        ("catalog:nac-resnet34-cifar10", "strategy"),
        ("runs/search-1/strategy.json", "strategy"),
        ("runs/search-1", "search of resnet8 on digits"),
        ("runs/search-1/checkpoint", "checkpoint of resnet8 on digits"),
        ("runs/export-ort-1", "artifact for ort: resnet8 compressed by 'QEF'"),
    ],
)
def test_show_describes_what_is_there(what: str, expected: str, home: Path) -> None:
    assert expected in succeed("show", what).out


def test_show_prints_figures_as_people_write_them(home: Path) -> None:
    figures = read("runs/search-1/result.json")["figures"]
    lines = succeed("show", "runs/search-1").out.splitlines()
    assert f"accuracy: {100 * figures['accuracy']:.2f} %" in lines
    assert f"n_images: {figures['n_images']}" in lines
    assert f"bitops_ratio: {figures['bitops_ratio']:.2f}x" in lines


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("nope", 2, "nothing lies at 'nope', and it is no strategy: 'N' is no letter of F P E Q"),
        ("runs/nope", 2, "nothing lies at 'runs/nope', and it is no strategy: cannot read '/'"),
        ("runs", 2, "runs holds no strategy, checkpoint, artifact or finished run"),
        (
            "runs/search-1",
            1,
            "is not finished and has no result to show: 4 of 4 chains are evaluated; nacdeploy report",
        ),
        ("runs/begun", 1, "nacdeploy search --resume runs/begun goes on with it"),
        ("runs/asked", 2, "is an analysis"),
    ],
)
def test_show_says_what_is_nothing_or_not_finished(what: str, code: int, said: str, home: Path) -> None:
    for name in ("result.json", "strategy.json"):
        Path("runs/search-1", name).unlink()
    for name, file in (("begun", "run.json"), ("asked", "analyze.json")):
        Path("runs", name).mkdir()
        Path("runs", name, file).write_text("{}")
    done = run("show", what)
    assert (done.code, done.out) == (code, "")
    assert said in refused_line(done)


def test_doctor_names_targets_and_pip_lines(home: Path) -> None:
    assert "pip install" in succeed("doctor").out
    assert {target["name"] for target in succeed("doctor", "--json").json["targets"]} >= {"ort", "trt"}


def test_bench_times_an_artifact_with_exits_against_the_original(home: Path) -> None:
    table = succeed("bench", "runs/export-ort-1", "--batch", 2, "--threads", 1, "--json").json
    baseline, artifact = table["rows"]
    assert baseline["chain"] == ""
    assert artifact["latency"]["batch_size"] == 2
    assert artifact["size_ratio"] > 1
    assert artifact["note"] == "no time saved by exits in this form"
    scored = read("runs/transfer-QEF-1/result.json")["scores"]["compressed"]
    assert artifact["accuracy"] == pytest.approx(scored, abs=0.05)


def test_bench_ends_with_1_behind_its_table_when_a_requirement_is_missed(home: Path) -> None:
    command = ("bench", "runs/export-ort-1", "--batch", 1, "--require", "ms<=1e9")
    assert "runs/export-ort-1" in succeed(*command).out
    done = run(*command, "--require", "drop<=-1000", "--json")
    assert (done.code, len(done.json["rows"])) == (1, 2)
    line = refused_line(done)
    assert line.startswith("error: 1 of 2 requirements are missed: runs/export-ort-1 at batch 1: drop is ")
    assert line.endswith(", <= -1000 is required")
    Path("nacdeploy.toml").write_text(Path("nacdeploy.toml").read_text() + "require = 'drop<=-1000'\n")
    assert run(*command[:-2]).code == 1


@pytest.mark.parametrize(
    ("requirement", "said"),
    [("speedup>1,2", "'1,2' is no finite number"), ("sped>=1", "did you mean"), ("score>=0.9", "write 'score>=90'")],
)
def test_bench_refuses_a_requirement_that_cannot_be_read_before_it_times(
    requirement: str, said: str, home: Path
) -> None:
    done = run("bench", "runs/export-ort-1", "--require", requirement)
    assert (done.code, done.out) == (2, "")
    assert said in refused_line(done)


@pytest.mark.parametrize(("target", "optimization"), [("onnx", "basic"), ("trt", "basic"), ("ort", "all")])
def test_network_with_exits_is_exported_and_agrees(target: str, optimization: str, home: Path) -> None:
    exported = Path("runs/export-ort-1")
    if target != "ort":
        exported = Path(
            succeed("export", "--from", "runs/transfer-QEF-1", "--target", target, "--json").json["artifact"]
        )
    manifest = read(exported / "manifest.json")
    assert manifest["parity"]["optimization"] == optimization
    assert manifest["parity"]["agreement"] >= 0.9
    assert len(manifest["outputs"]) == 1 + len(manifest["gate"]["exits"]) == 2
    assert set(manifest["engines"]) == ({"SM86"} if target == "trt" else set())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_own_network_takes_one_flag_and_its_weights(suffix: str, home: Path) -> None:
    Path("net.py").write_text(NET)
    models.name_by_user("net.py:factory")
    spec = models.resolve("net.py:factory", n_classes=10, channels=1, input_size=(8, 8))
    values = spec.build().state_dict()
    save_file(values, "w.safetensors") if suffix == ".safetensors" else torch.save(values, "w.pt")
    result = succeed(
        "transfer", "--strategy", "QPF", "--model", "net.py:factory", "--checkpoint", f"w{suffix}", "--json"
    )
    assert result.json["figures"]["bitops_ratio"] > 10
    assert result.json["n_epochs"] == 1
    assert succeed("show", result.json["checkpoint"]).out.startswith("checkpoint of net.py:factory")


def test_tracking_stands_beside_wandb_and_survives_its_failure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def broken(**options: Any) -> None:
        raise RuntimeError("no W&B today")

    monkeypatch.setattr(wandb, "init", broken)
    done = succeed("transfer", "--strategy", "Q", "--wandb")
    assert "warning: W&B could not start (no W&B today)" in done.err
    kinds = [json.loads(line)["kind"] for line in Path("runs/transfer-Q-1/tracking.jsonl").read_text().splitlines()]
    assert kinds == ["config", "media", "media", "result", "artifact", "artifact"]


def test_long_word_gets_a_folder_with_a_name_that_fits(home: Path) -> None:
    done = succeed("transfer", "--strategy", "Q" * 80, "--skip-refused", "--json")
    assert len(Path(done.json["folder"]).name) < 80

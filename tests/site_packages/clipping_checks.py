"""What `tests/contracts/test_other_operator.py` runs in a process that finds the package `nacdeploy-clipping`."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from command_line import change, lay_out, refused_line, rows, run, succeed
from conftest import follow, make_profile

from nacdeploy import profile as profiles
from nacdeploy.base.errors import UsageError
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.state import CompressionState, state_key
from nacdeploy.strategies.steps import checkpoint, letters
from nacdeploy.task import Task
from nacdeploy.testing import operators as laws

LINKS = tuple(Chain.parse("A A(by_channel=true)"))
AFTER = ("", "QP", "E", "D")
CASES = tuple(zip((*LINKS, *LINKS), AFTER, strict=True))


@pytest.fixture(scope="session")
def quick() -> Profile:
    tables = {"finetune": {"epochs": 1}, "exits": {"recipe": {"epochs": 1}}}
    return make_profile(**tables, decompose={"rank": "ratio", "multiple": 1}, clip={"n_images": 64})


@pytest.fixture(scope="session")
def states(baseline: CompressionState, task: Task, quick: Profile) -> dict[str, CompressionState]:
    return {word: follow(baseline, word, task, quick) for word in AFTER}


def ceilings(state: CompressionState) -> list[torch.Tensor]:
    return [each.ceiling for each in state.network.attached.values()]  # type: ignore[attr-defined]


def activations_are_bounded(before: CompressionState, after: CompressionState) -> bool:
    """A: every ceiling is a number, and there were none before."""
    return not before.network.attached and all(bool(each.isfinite().all()) for each in ceilings(after))


@pytest.mark.parametrize(("link", "word"), CASES, ids=str)
@pytest.mark.parametrize(
    "law",
    [
        laws.check_perform_is_deterministic,
        laws.check_replay_gives_the_same_shapes,
        laws.check_decision_survives_json,
        laws.check_advance_leaves_its_input,
        laws.check_output_shape_is_kept,
    ],
)
def test_operator_keeps_law(
    law: object, link: Link, word: str, states: dict[str, CompressionState], task: Task, quick: Profile
) -> None:
    assert law(link, states[word], task, quick) is None  # type: ignore[operator]


@pytest.mark.parametrize("link", LINKS, ids=str)
def test_operator_moves_its_own_figure(link: Link, baseline: CompressionState, task: Task, quick: Profile) -> None:
    assert laws.check_figure_moves(link, baseline, task, quick, activations_are_bounded) is None


def test_operator_changes_nothing_when_refused(baseline: CompressionState, task: Task, quick: Profile) -> None:
    state = follow(baseline, "A", task, quick)
    assert "activations have a ceiling" in laws.check_refused_step_changes_nothing(Link("A"), state, task, quick)


@pytest.mark.parametrize("word", ["AF", "FA", "AP", "PA", "AE", "EA", "AQ", "QA", "AS", "SA", "AD", "DA", "AC", "CA"])
def test_pair_of_letters_works(word: str, baseline: CompressionState, task: Task, quick: Profile) -> None:
    state, reason = laws.check_pair_works_or_refuses(*Chain.parse(word), baseline, task, quick)
    if word == "CA":
        assert "the weights are shared (C) and only F may follow" in str(reason)
    else:
        assert (state.chain.word, reason) == (word, None)


def test_f_moves_ceilings_and_p_cuts_them(baseline: CompressionState, task: Task, quick: Profile) -> None:
    clipped = follow(baseline, "A(by_channel=true,percentile=80)", task, quick)
    trained = follow(clipped, "F", task, quick)
    assert any(not torch.equal(one, other) for one, other in zip(ceilings(clipped), ceilings(trained), strict=True))
    pruned = follow(trained, "P(ratio=0.4)", task, quick)
    assert sum(map(len, ceilings(pruned))) < sum(map(len, ceilings(trained)))


def test_checkpoint_and_memory_bring_back_the_same_bits(
    baseline: CompressionState, task: Task, quick: Profile, tmp_path: Path
) -> None:
    state = follow(baseline, "A(by_channel=true)FPQ", task, quick)
    (tmp_path / "checkpoint").mkdir()
    checkpoint.write(tmp_path / "checkpoint", state, checkpoint.record_of(state, task, quick))
    loaded, _ = checkpoint.load(tmp_path / "checkpoint")
    assert state_key(loaded.network) == state.key
    DiskMemory.open(tmp_path / "cache", task, quick, baseline).remember(state)
    recalled = DiskMemory.open(tmp_path / "cache", task, quick, baseline).recall(str(state.chain), baseline.metrics)
    assert recalled is not None
    assert recalled.key == state.key


def test_letter_and_table_are_those_of_the_package() -> None:
    assert profiles.letters()["A"].package == "nacdeploy-clipping"
    assert letters.versions({"A"}) == {"A": 1}
    with pytest.raises(UsageError, match=r"unknown key 'clip.percentle'; did you mean 'percentile'"):
        make_profile(clip={"percentle": 99})
    with pytest.raises(UsageError, match=r"clip.percentile: Input should be less than or equal to 100"):
        make_profile(clip={"percentile": 101})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = lay_out(tmp_path_factory.mktemp("clipped"))
    with (folder / "tiny.toml").open("a") as file:
        file.write("\n[clip]\nn_images = 64\npercentile = 98.0\n")
    return folder


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def artifact(place: Path) -> Path:
    """A chain of the letter found by a search's memory, transferred, trained further and exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        change("search", alphabet="FPQA", searcher="random", budget=8)
        succeed("search", "--out", "found")
        succeed("transfer", "--strategy", "APQF", "--out", "moved")
        succeed("finetune", "--from", "moved", "--out", "tuned")
        succeed("export", "--from", "tuned", "--target", "ort", "--out", "built")
    return place / "built"


def test_search_tries_the_letter(artifact: Path) -> None:
    before = rows(artifact.parent / "found")
    assert any("A" in row["chain"] for row in before)
    succeed("search", "--resume", "found", "--budget", len(before) + 1)
    assert rows(artifact.parent / "found")[: len(before)] == before


def test_strategy_brings_the_table_of_the_letter(artifact: Path) -> None:
    settings = json.loads((artifact.parent / "moved/strategy.json").read_text())["settings"]
    assert settings["clip"] == {"percentile": 98.0, "n_images": 64, "by_channel": False}


def test_artifact_holds_the_ceilings_and_agrees(artifact: Path) -> None:
    nodes = onnx.load(artifact / "model.onnx").graph.node
    clips = [node for node in nodes if node.name.startswith("node_attached/")]
    assert {node.op_type for node in clips} == {"Clip"}
    state, _ = checkpoint.load(artifact.parent / "tuned/checkpoint")
    assert len(clips) == len(state.network.attached) > 3
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["chain"] == "APQFF"
    assert manifest["parity"]["agreement"] >= 0.96
    assert manifest["parity"]["snr_db"] > 25
    assert manifest["worst_step"] <= 1


def test_commands_read_what_the_letter_made(artifact: Path) -> None:
    assert "ceilings at the 98th percentile" in succeed("show", "tuned/checkpoint").out
    assert "A" in succeed("show", "built").out
    assert succeed("explain", "built", "--json").json["chain"] == "APQFF"
    dry = succeed("transfer", "--strategy", "PA(by_channel=true)", "--dry-run").out
    assert "ceilings at the 98th percentile" in dry
    assert "unknown parameter 'percentle' of A" in refused_line(run("transfer", "--strategy", "A(percentle=3)"))

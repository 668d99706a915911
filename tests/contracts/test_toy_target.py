"""A target of another package, found through its entry point alone, keeps the laws and serves every command.

The package lies in tests/fixtures/toy_target, with the dist-info folder that an installer would write.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Outcome, lay_out, refused_line, run, succeed
from conftest import follow, make_profile

from nacdeploy import profile as profiles
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters import targets
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.export import export
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.testing import targets as laws

TOY = Path(__file__).parents[1] / "fixtures" / "toy_target"


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", autouse=True)
def installed(patch: pytest.MonkeyPatch) -> None:
    patch.syspath_prepend(str(TOY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """A folder in which a network was quantized for the toy and exported to it by the command line."""
    place = lay_out(tmp_path_factory.mktemp("toy"))
    text = (place / "tiny.toml").read_text().replace('grid = "ort"\n', "").replace('target = "ort"', 'target = "toy"')
    (place / "tiny.toml").write_text(text)
    patch.chdir(place)
    succeed("transfer", "--strategy", "PQ")
    succeed("export", "--out", "artifact")
    return place


def test_toy_is_a_target_beside_those_of_nacdeploy() -> None:
    assert targets.names() == (*targets.FOLDERS, "toy")
    assert targets.parse("toy").title == "ONNX's reference evaluator"
    assert targets.problems() == ()
    assert profiles.from_mapping({"name": "p", "target": "toy"}).target.name == "toy"


def test_toy_keeps_the_laws(baseline: CompressionState, task: Task, tmp_path: Path) -> None:
    bench = {"batch_sizes": [1, 2], "n_rounds": 3, "round_ms": 1.0}
    profile = make_profile(target="toy", export={"guard": False, "n_parity": 30}, bench=bench)
    target = targets.parse("toy")
    assert plain_network(task, profile).grid == target.grids[0]
    laws.check_facts(target)
    laws.check_doctor(target, profile.export)
    assert laws.absence(target, profile.export) is None
    path = laws.check_export(target, follow(baseline, "Q", task, profile), task, profile, tmp_path)
    laws.check_answers(path, task)
    plain = export(baseline, task, profile, targets.parse("ort"), tmp_path / "plain", Context())
    laws.check_bench(path, plain, task, profile)
    laws.check_explanation(path)


def test_parity_asks_the_toy_first(folder: Path) -> None:
    shown = succeed("show", "artifact", "--json").json
    assert shown["target"] == "toy"
    checks = [check["optimization"] for check in shown["checks"]]
    assert checks == ["toy", "basic", "disabled"]


def test_bench_times_the_toy_itself(folder: Path) -> None:
    rows = succeed("bench", "artifact", "--json").json["rows"]
    assert [row["target"] for row in rows] == ["ort", "toy"]
    assert rows[1]["runtime"].startswith("ONNX reference evaluator")


def test_explain_says_whose_times_they_are(folder: Path) -> None:
    explained = succeed("explain", "artifact", "--json").json
    assert len(explained["rows"]) > 5
    assert any("has no kernels to time" in note for note in explained["notes"])


def test_guard_times_the_toy_where_it_is_asked_for(folder: Path) -> None:
    manifest = succeed("export", "--guard", "--out", "guarded", "--json").json
    assert any("latency guard" in note or "precision by measured time" in note for note in manifest["notes"])


def test_verify_finds_nothing_to_build_again(folder: Path) -> None:
    verified = succeed("verify", "artifact", "--json").json
    assert (verified["engines"], verified["unbuilt"]) == ([], [])


def test_doctor_lists_the_toy() -> None:
    found = {target["name"]: target for target in succeed("doctor", "--json").json["targets"]}
    assert found["toy"]["works"]
    assert found["toy"]["why"] == "ONNX's reference evaluator on the CPU"


# --- packages that are broken -----------------------------------------------------------------------------------


CLASHING = """
from nacdeploy.exporters.targets import Target
from nacdeploy.base.precision import Grid

TARGET = Target(name="dsp", title="DSP", runtime="broken_pack:RUNTIME", grids=(Grid("ort", 8, ()),))
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that names targets: one does not load, one is taken, one has a taken grid, one is none."""
    place = tmp_path / "broken_pack-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-pack\nVersion: 1.0\n")
    (tmp_path / "broken_pack.py").write_text(CLASHING)
    lines = (
        "[nacdeploy.targets]",
        "dsp = broken_pack:TARGET",
        "npu = no_such_module:TARGET",
        "ort = toy_target:TARGET",
        "tpu = json:dumps",
    )
    (place / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("broken")
def test_entry_points_that_give_no_target_are_named_with_their_package() -> None:
    clashing, unloaded, taken, none = sorted(targets.problems())
    assert clashing == (
        "target 'dsp' of package broken-pack is left out: its grid 'ort' is another target's, with other integers"
    )
    assert unloaded == (
        "target 'npu' of package broken-pack is left out: no_such_module:TARGET does not load "
        "(ModuleNotFoundError: No module named 'no_such_module')"
    )
    assert taken == "target 'ort' of package broken-pack is left out: the name is taken"
    assert none == "target 'tpu' of package broken-pack is left out: json:dumps is no Target of this name"
    assert targets.names() == (*targets.FOLDERS, "toy")
    assert targets.parse("ort").title == "ONNX Runtime"


@pytest.mark.usefixtures("broken")
def test_broken_target_is_refused_with_its_cause_and_the_rest_works(folder: Path) -> None:
    line = refused_line(run("export", "--target", "npu"))
    assert "unknown target 'npu'" in line and "No module named 'no_such_module'" in line
    succeed("export", "--target", "onnx", "--out", "beside")
    doctor: Outcome = run("doctor")
    assert "package broken-pack" in doctor.out


def test_artifact_of_a_package_that_is_gone_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(TOY)])
    with pytest.raises(UsageError, match="unknown target 'toy'"):
        targets.parse("toy")
    for command in ("bench", "explain", "verify"):
        assert "unknown target 'toy'" in refused_line(run(command, "artifact"))

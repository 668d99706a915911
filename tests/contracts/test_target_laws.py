"""The laws of targets (nacdeploy/testing/targets.py), over every target here; one that is not here says so."""

from pathlib import Path

import pytest
from conftest import follow, make_profile

from nacdeploy.exporters import targets
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.export import export
from nacdeploy.exporters.targets import FOLDERS
from nacdeploy.profile import Profile
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.testing import targets as laws

EVERY = pytest.mark.parametrize("name", FOLDERS)


@pytest.fixture(scope="session")
def quick() -> Profile:
    bench = {"batch_sizes": [1, 2], "n_rounds": 5, "round_ms": 1.0}
    return make_profile(
        export={"guard": False, "n_parity": 60, "max_batch": 64, "compute_capabilities": ["SM86"]}, bench=bench
    )


@pytest.fixture(scope="session")
def quantized(baseline: CompressionState, task: Task, quick: Profile) -> CompressionState:
    return follow(baseline, "Q", task, quick)


@pytest.fixture(scope="session")
def plain(baseline: CompressionState, task: Task, quick: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "ort"
    return export(baseline, task, quick, targets.parse(targets.REFERENCE), out, Context())


@EVERY
def test_facts_are_named_and_known(name: str) -> None:
    laws.check_facts(targets.parse(name))


@EVERY
def test_doctor_says_what_an_export_finds(name: str, quick: Profile) -> None:
    laws.check_doctor(targets.parse(name), quick.export)


@EVERY
def test_target_keeps_its_laws_or_is_not_here(
    name: str, quantized: CompressionState, task: Task, quick: Profile, plain: Path, tmp_path: Path
) -> None:
    target = targets.parse(name)
    if reason := laws.absence(target, quick.export):
        pytest.skip(reason)
    path = laws.check_export(target, quantized, task, quick, tmp_path)
    laws.check_answers(path, task)
    laws.check_bench(path, plain, task, quick)
    laws.check_explanation(path)

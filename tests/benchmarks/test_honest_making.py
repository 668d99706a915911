"""The cells of the honest table, really made: tiny networks of tiny data, one epoch each."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.honest import methods, shapes
from benchmarks.honest.bench import opened
from benchmarks.honest.cells import MissingError
from benchmarks.honest.plans import PLANS, SMOKE, Family
from nacdeploy.base.progress import Silent

TINY = {
    **SMOKE,
    "data": "digits",
    "width": 8,
    "images": {"n_train": 128, "n_validation": 64, "n_test": 64, "input_size": 8},
    "prune": {"multiple": 2},
}


FAMILIES = (Family("resnet8", (2, 4), (0.05,)), Family("resnet20", (2,), (0.05,)))
PLAN = replace(PLANS["resnet"], families=FAMILIES, ratios=(0.5,), speedups={1.5: (0,)}, n_rounds=1, tables=TINY)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose candidates need no timing: their speeds are made up."""
    speeds = {"dense resnet8 2": 2.0, "dense resnet8 4": 0.7, "dense resnet20 2": 1.0}
    monkeypatch.setattr(shapes, "speeds", lambda bench: speeds)
    return tmp_path


def test_dense_networks_are_made_once_and_have_the_epochs_of_all(place: Path) -> None:
    bench = opened(PLAN, 0, place, Silent(), make=True)
    (plain,), (taught,) = methods.dense(bench, 1.5), methods.distilled(bench, 1.5)
    assert [each.cells[0].key for each in (plain, taught)] == [
        f"{kind}/resnet8-2/rate-0.05" for kind in ("dense", "distilled at 2")
    ]
    for cell in (*plain.cells, *taught.cells):
        assert not cell.error
        assert cell.n_epochs == methods.baseline(bench).n_epochs + 1
        assert 0 <= cell.validation <= 1
    again = opened(PLAN, 0, place, Silent(), make=False)
    assert list(methods.dense(again, 1.5)) == [plain]
    with pytest.raises(MissingError, match="int8"):
        list(methods.untrained(again))

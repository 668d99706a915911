"""The honest table: which candidates are trained, what is read off between them, and that a killed run goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.honest import answers, shapes
from benchmarks.honest.answers import Times
from benchmarks.honest.cells import LINES, Cell, Cells, Made, MissingError
from benchmarks.honest.methods import Variation
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Ratio
from nacdeploy.base.progress import Silent


def cell(key: str, validation: float = 0.9, error: str = "") -> Cell:
    return Cell(key, f"{key}.onnx", 24, validation, error=error)


def times(**speeds: float) -> Times:
    ratios = {name: Ratio(speed, speed * 0.99, speed * 1.01) for name, speed in speeds.items()}
    return Times("a machine", 1.0, ratios, {name: 1 / speed for name, speed in speeds.items()})


def test_candidates_around_a_speed_are_its_nearest_neighbours() -> None:
    assert shapes.around({4: 20.0, 8: 14.0, 12: 11.0, 16: 8.0}, 12) == (8, 12)


def test_no_candidate_is_trained_when_none_is_fast_enough() -> None:
    assert shapes.around({4: 5.0, 8: 3.0}, 12) == ()


def test_a_candidate_far_beyond_the_time_is_left_out() -> None:
    assert shapes.around({4: 14.0, 8: 5.0}, 12) == (4,)


def test_a_candidate_slower_than_a_larger_one_is_none() -> None:
    assert shapes.around({4: 14.0, 8: 11.0, 12: 8.6, 16: 10.4, 20: 7.9}, 9) == (16, 20)


def test_share_is_log_linear_in_time() -> None:
    assert shapes.share(10, 20, 5) == pytest.approx(0.5)
    assert shapes.share(20, 20, 5) == 1
    assert shapes.share(5, 20, 5) == 0


@pytest.mark.parametrize(
    ("within", "beyond", "near"),
    [
        (20.0, 5.0, 0.5),
        (9.9, 5.0, 1.0),  # by the measurement at the end a little slower than asked
        (9.0, 5.0, None),  # too slow
        (14.0, 10.5, 0.0),  # the slower one is fast enough too
    ],
)
def test_nearness_follows_the_times_of_the_end(within: float, beyond: float, near: float | None) -> None:
    both = Variation("both", (cell("within"), cell("beyond")))
    found = answers.nearness(both, 10.0, times(within=within, beyond=beyond))
    assert found == (near if near is None else pytest.approx(near))


def test_a_single_network_is_taken_as_it_is() -> None:
    assert answers.nearness(Variation("one", (cell("one"),)), 10.0, times(one=13.0)) == 1


def test_validation_picks_at_the_speed_asked_for() -> None:
    steep = Variation("steep", (cell("a", 0.80), cell("b", 0.94)))
    flat = Variation("flat", (cell("c", 0.88), cell("d", 0.89)))
    failed = Variation("failed", (cell("e", 0.99, error="no"),))
    measured = times(a=20.0, b=5.0, c=20.0, d=5.0, e=20.0)

    assert answers.picked([steep, flat, failed], 10.0, measured) == (flat, pytest.approx(0.5))
    assert answers.picked([steep, flat, failed], 6.0, measured)[0] is steep  # type: ignore[index]
    assert answers.picked([failed], 10.0, measured) is None


def test_gap_pairs_the_images() -> None:
    ours, theirs = np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    middle, low, high = answers.gap(ours, theirs)
    assert middle == pytest.approx(25)
    assert low < 0 < high
    assert answers.gap(ours, ours) == (0, 0, 0)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with a whole line, one of a network that is gone, and one that a kill cut off."""
    (tmp_path / "there").touch()
    lines = [json.dumps({"key": key, "path": path}) for key, path in (("a", "there"), ("b", "gone"))]
    (tmp_path / LINES).write_text("\n".join([*lines, '{"key": "c", "pa']))
    return tmp_path


def cells(folder: Path, make: bool) -> Cells:
    return Cells(folder, lambda: pytest.fail("nothing is judged"), Silent(), make)


def refused(folder: Path) -> Made:
    raise NacdeployError("out of reach")


def test_only_whole_cells_count_after_a_kill(kept: Path) -> None:
    found = cells(kept, make=False)
    assert found.get("a", refused).path == "there"
    for key in ("b", "c"):
        with pytest.raises(MissingError, match=key):
            found.get(key, refused)


def test_a_failure_is_a_line_that_the_next_run_tries_again(kept: Path) -> None:
    assert cells(kept, make=True).get("c", refused).error == "out of reach"
    assert cells(kept, make=False).get("c", refused).error == "out of reach"
    assert cells(kept, make=False).get("a", refused).path == "there"
    assert "c" not in cells(kept, make=True).done

"""The schedule of automated gradual pruning."""

import pytest

from nacdeploy.experiments.procedures.schedules import agp_sparsity

# Source of the numbers: golden/auptimizer.json, agp (Zhu & Gupta, 2017, eq. 1).
EVERY_EPOCH = {"initial_sparsity": 0.0, "final_sparsity": 0.8, "start_epoch": 0, "end_epoch": 10}
EVERY_THIRD = {"initial_sparsity": 0.2, "final_sparsity": 0.9, "start_epoch": 2, "end_epoch": 20, "frequency": 3}


@pytest.mark.parametrize(
    ("config", "epoch", "sparsity"),
    [
        (EVERY_EPOCH, 0, 0.0),
        (EVERY_EPOCH, 1, 0.23813443072702345),
        (EVERY_EPOCH, 4, 0.6628257887517147),
        (EVERY_EPOCH, 9, 0.8),
        (EVERY_EPOCH, 11, 0.8),
        (EVERY_THIRD, 2, 0.2),
        (EVERY_THIRD, 5, 0.5416),
        (EVERY_THIRD, 17, 0.9),
        (EVERY_THIRD, 19, 0.9016592592592593),
        (EVERY_THIRD, 20, 0.9),
    ],
)
def test_share_follows_the_cubic(config: dict, epoch: int, sparsity: float) -> None:
    assert agp_sparsity(epoch, **config) == pytest.approx(sparsity, abs=1e-12)


def test_share_before_the_start_is_the_initial_one() -> None:
    assert agp_sparsity(0, **EVERY_THIRD) == pytest.approx(0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "end"), [(3, 3), (3, 4)])
def test_schedule_without_room_for_a_step_ends_at_once(start: int, end: int) -> None:
    shares = [
        agp_sparsity(epoch, initial_sparsity=0.1, final_sparsity=0.6, start_epoch=start, end_epoch=end)
        for epoch in (2, 3, 4)
    ]
    assert shares == [0.1, 0.6, 0.6]


def test_share_at_the_steps_never_falls_and_ends_at_the_final_one() -> None:
    steps = [agp_sparsity(epoch, **EVERY_THIRD) for epoch in range(2, 20, 3)]  # type: ignore[arg-type]
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(0.9)

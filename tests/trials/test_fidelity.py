"""Validation in parts: the interval covers, decisions are those of the whole split, and images are saved."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import follow, make_profile
from hypothesis import given
from hypothesis import strategies as st

from nacdeploy.data import ImageSet
from nacdeploy.metrics import Interval
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.search import FidelityTable, SearchTable
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.strategies.steps.advance import measured
from nacdeploy.task import Task
from nacdeploy.trials.fidelity import Subsets, is_clear, looks, subsets


@pytest.mark.parametrize(
    ("drop", "clear"),
    [
        (Interval(0.2, -0.3, 0.7), True),
        (Interval(0.8, 0.3, 1.3), False),
        (Interval(3.0, 1.2, 4.8), False),
        (Interval(60.0, 52.0, 67.0), True),
        (Interval(1.0, 1.0, 1.0), False),
    ],
)
def test_counting_stops_only_when_no_threshold_is_in_doubt(drop: Interval, clear: bool) -> None:
    assert is_clear(drop, (1.0, 10.0), margin=1.0) == clear


@given(st.integers(1, 100_000), st.integers(1, 5000))
def test_looks_end_with_all_images(n_total: int, first: int) -> None:
    counts = looks(n_total, first)
    assert counts == sorted(set(counts))
    assert counts[-1] == n_total
    assert len(counts) <= 30


@pytest.fixture(scope="module")
def crowd(task: Task) -> Task:
    """The tiny task with 6,000 validation images: its own and noisy copies of them."""
    images = task.data.validation
    generator = torch.Generator().manual_seed(0)
    copies = images.images.repeat(40, 1, 1, 1).float()
    noisy = (copies + 12 * torch.randn(copies.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    return replace(task, data=replace(task.data, validation=ImageSet(noisy, images.labels.repeat(40))))


@pytest.fixture(scope="module")
def start(baseline: CompressionState, crowd: Task) -> CompressionState:
    metrics = measure(baseline.network, crowd)
    return replace(baseline, metrics=metrics, baseline=metrics)


@pytest.mark.parametrize("word", ["Q", "P", "PPPP", "PPPPPPPP"])
def test_a_part_of_the_images_decides_as_all_of_them_do(
    word: str, start: CompressionState, crowd: Task, profile: Profile
) -> None:
    meter = subsets(start, crowd, SearchTable(max_drop=1.0))
    assert meter is not None
    state = follow(start, word, crowd, profile)
    part, whole = meter(state.network, crowd), state.metrics
    assert abs(part.score - whole.score) <= part.half_width
    assert part.n_images <= whole.n_images
    drop_of_part = 100 * (start.metrics.score - part.score)
    for threshold in meter.thresholds:
        assert (drop_of_part > threshold) == (state.drop > threshold)


def test_a_network_that_is_clearly_lost_is_seen_to_be_at_the_first_look(start: CompressionState, crowd: Task) -> None:
    network = follow_zero(start)
    meter = subsets(start, crowd, SearchTable())
    assert meter is not None
    found = meter(network, crowd)
    assert found.n_images == FidelityTable().first_images
    assert found.half_width > 0


def follow_zero(start: CompressionState) -> Network:
    """The baseline with every weight zero."""
    network = copy.deepcopy(start.network)
    for parameter in network.parameters():
        parameter.data.zero_()
    return network


def test_small_splits_and_switched_off_parts_are_counted_in_full(
    baseline: CompressionState, start: CompressionState, task: Task, crowd: Task
) -> None:
    assert subsets(baseline, task, SearchTable()) is None
    assert subsets(start, crowd, SearchTable(fidelity=FidelityTable(subsets=False))) is None


def test_training_is_measured_in_full_and_a_part_is_remembered_apart(
    start: CompressionState, crowd: Task, tmp_path: Path
) -> None:
    profile = make_profile(finetune={"epochs": 1})
    memory, meter = DiskMemory.open(tmp_path, crowd, profile, start), subsets(start, crowd, SearchTable(max_drop=6.0))
    assert isinstance(meter, Subsets)
    quantized = follow(start, "Q", crowd, profile, memory=memory, meter=meter)
    assert quantized.metrics.n_images < len(crowd.data.validation)
    full = measured(quantized.network, crowd, memory)
    assert (full.n_images, full.half_width) == (len(crowd.data.validation), 0.0)
    trained = follow(quantized, "F", crowd, profile, memory=memory, meter=meter)
    assert (trained.metrics.n_images, trained.metrics.half_width) == (len(crowd.data.validation), 0.0)
    assert trained.metrics.score >= full.score

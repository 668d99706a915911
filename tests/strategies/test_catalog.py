"""The catalog of published strategies: NAC's table, found by name."""

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.strategies import catalog


def test_catalog_holds_nine_strategies_of_known_letters_and_distinct_names() -> None:
    assert len({strategy.name for strategy in catalog.PUBLISHED}) == 9
    assert all(set(strategy.chain.word) <= set("FPEQ") for strategy in catalog.PUBLISHED)


def test_find_returns_the_published_row() -> None:
    found = catalog.find("nac-resnet34-cifar10")
    assert (found.model, found.data, str(found.chain)) == ("resnet34", "cifar10", "QQFEEEEEEEEP")
    assert (found.accuracy, found.accuracy_loss) == (0.9088, 0.0130)
    assert (found.bitops_ratio, found.memory_ratio, found.gpu_hours) == (100.80, 28.56, 29.0)
    assert "doctorcoal/NAC" in found.source


def test_accuracy_and_loss_are_fractions_and_one_strategy_gains() -> None:
    assert all(0.5 < strategy.accuracy < 1 and abs(strategy.accuracy_loss) < 0.02 for strategy in catalog.PUBLISHED)
    assert [s.name for s in catalog.PUBLISHED if s.accuracy_loss < 0] == ["nac-deit_tiny-tiny-imagenet"]


def test_published_ratios_are_no_smaller_than_their_quantisation_alone() -> None:
    for strategy in catalog.PUBLISHED:
        rungs = strategy.chain.word.count("Q")
        assert strategy.bitops_ratio >= (16, 32)[rungs - 1]
        assert strategy.memory_ratio >= (4, 8)[rungs - 1]


def test_find_names_the_nearest_when_unknown() -> None:
    with pytest.raises(UsageError, match="did you mean 'nac-resnet34-cifar10'"):
        catalog.find("nac-resnet-cifar10")

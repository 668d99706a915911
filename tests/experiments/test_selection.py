"""Which layers entries mean."""

import pytest
from small_networks import Plain, Residual

from nacdeploy.base.errors import UsageError
from nacdeploy.experiments.config.selection import select


def test_later_entries_override_and_names_win() -> None:
    entries = [
        {"sparsity": 0.8, "op_types": ["Conv2d"]},
        {"sparsity": 0.6, "op_names": ["conv1"]},
        {"exclude": True, "op_names": ["conv2"]},
    ]
    found = select(entries, Residual())
    assert found.layers == {"stem.0": {"sparsity": 0.8}, "conv1": {"sparsity": 0.6}}
    assert found.excluded == {"conv2"}
    assert found.named == {"conv1", "conv2"}


def test_default_means_all_weighted_layers() -> None:
    assert list(select([{"sparsity": 0.1}], Plain()).layers) == ["0", "3", "8"]


def test_norms_may_be_named_for_slimming() -> None:
    entry = {"sparsity": 0.1, "op_types": ["BatchNorm2d"]}
    assert list(select([entry], Plain(), with_norms=True).layers) == ["1", "4"]


def test_every_name_that_matches_nothing_is_told_with_the_nearest() -> None:
    entries = [{"sparsity": 0.1, "op_names": ["conv11"]}, {"sparsity": 0.1, "op_types": ["Conv1d"]}]
    with pytest.raises(UsageError) as caught:
        select([*entries, {"exclude": True, "op_names": ["bn3"]}], Residual())
    said = str(caught.value)
    assert "no layer is named 'conv11'; did you mean 'conv1'?" in said
    assert "the network has no Conv1d" in said
    assert "'bn3'" in said


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UsageError, match="no layer is left"):
        select([{"sparsity": 0.1, "op_names": ["0"]}, {"exclude": True, "op_types": ["Conv2d"]}], Plain())


def test_nothing_selected_is_refused_without_speaking_of_exclusion() -> None:
    with pytest.raises(UsageError, match="the entries select none that can be compressed"):
        select([{"sparsity": 0.1, "op_types": ["BatchNorm2d"]}], Plain())

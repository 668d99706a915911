"""MUSCO's layer configurations: generated, written, read again, and every error named at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from nacdeploy.base.errors import UsageError
from nacdeploy.strategies.operators.decompose import musco
from nacdeploy.strategies.operators.decompose.layer_settings import LayerSetting
from nacdeploy.strategies.operators.decompose.settings import DecomposeTable

LAYERS: dict[str, nn.Module] = {
    "conv1": nn.Conv2d(16, 32, 3),
    "conv2": nn.Conv2d(32, 64, 1),
    "depthwise": nn.Conv2d(32, 32, 3, groups=32),
    "fc": nn.Linear(64, 10),
}
TABLE = DecomposeTable()


def read(text: str, tmp_path: Path) -> dict[str, LayerSetting]:
    path = tmp_path / "low.yaml"
    path.write_text(text)
    return musco.read(path, LAYERS, TABLE)


@pytest.mark.parametrize(("kind", "n_layers"), [("vbmf", 3), ("param_reduction", 3), ("none", 0), ("template", 0)])
def test_generated_configuration_is_read_again(kind: str, n_layers: int, tmp_path: Path) -> None:
    config = musco.generated(LAYERS, kind)
    found = read(musco.text(config), tmp_path)
    assert list(config) == list(LAYERS)
    assert len(found) == n_layers
    assert {setting.format for setting in found.values()} <= {"tucker2", "svd"}
    assert yaml.safe_load(musco.text(config)) == config


def test_published_example_is_read(tmp_path: Path) -> None:
    found = read(
        """
        conv1: {decomposition: tucker2, rank_selection: manual, curr_compr_iter: 0,
                manual_rank: [!!python/tuple [16, 8], !!python/tuple [8, 4]]}
        conv2: {decomposition: svd, rank_selection: manual, manual_rank: [16, 8], curr_compr_iter: 1}
        fc: {decomposition: svd, rank_selection: vbmf, vbmf_weakenen_factor: 0.9, curr_compr_iter: 0}
        depthwise: null
        """,
        tmp_path,
    )
    assert found["conv1"].ranks == ((16, 8), (8, 4))
    assert found["conv2"].ranks == ((8,),), "one pass is done"
    assert (found["fc"].selection, found["fc"].weaken) == ("evbmf", 0.9)
    assert "depthwise" not in found


@pytest.mark.parametrize("key", ["param_reduction_rate", "parameter_reduction_rate", "param_reduction"])
def test_both_names_of_the_rate_are_read(key: str, tmp_path: Path) -> None:
    found = read(f"conv1: {{decomposition: cp4, rank_selection: param_reduction, {key}: 1.5}}", tmp_path)
    assert (found["conv1"].format, found["conv1"].selection, found["conv1"].rate) == ("cp4", "rate", 1.5)


def test_every_error_is_named_at_once() -> None:
    config: dict[str, Any] = {
        "conv9": None,
        "conv1": {"decomposition": "tucker2", "rank_selection": "manual", "manual_rank": [[64, 8]]},
        "conv2": {"decomposition": "svd", "rank_selection": "param_reduction", "param_reduction_rate": -2},
        "depthwise": {"decomposition": "tucker2", "rank_selection": "vbmf"},
        "fc": {"decomposition": "svd", "rank_selection": "vbmf", "vbmf_weakening": 0.5, "curr_compr_iter": -1},
    }
    with pytest.raises(UsageError) as error:
        musco.settings(config, LAYERS, TABLE, "low.yaml")
    text = str(error.value)
    assert "\n" not in text
    for part in (
        "conv9: no layer has this name; did you mean 'conv",
        "conv1: ranks [64, 8] do not fit: tucker2 of conv1 takes 2 of at most 32 and 16",
        "conv2: param_reduction_rate is a number above 1, not -2",
        "depthwise: depthwise or grouped",
        "fc: unknown key 'vbmf_weakening'; did you mean 'vbmf_weakenen_factor'",
        "fc: curr_compr_iter is the number of passes done, 0 or more, not -1",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"decomposition": "cp3", "rank_selection": "vbmf"}, "vbmf finds no rank of cp3"),
        ({"decomposition": "qcp3", "rank_selection": "vbmf"}, "one of svd, tucker2, cp3, cp4, not 'qcp3'"),
        ({"decomposition": "svd", "rank_selection": "vbmf"}, "svd is for linear layers and 1x1 convolutions; tucker2"),
        ({"decomposition": "tucker2"}, "rank_selection is one of"),
        ({"decomposition": "tucker2", "rank_selection": "manual"}, "manual_rank is needed"),
        ({"decomposition": "tucker2", "rank_selection": "manual", "manual_rank": [-1, 4]}, "of at least 1"),
        ({"decomposition": "cp3", "rank_selection": "manual", "manual_rank": [4], "curr_compr_iter": 1}, "are done"),
        ({"decomposition": ["tucker2"], "rank_selection": {"a": 1}}, "rank_selection is one of"),
        ("tucker2", "null or a table"),
    ],
)
def test_wrong_entry_is_one_line(entry: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        musco.settings({"conv1": entry}, LAYERS, TABLE, "low.yaml")


@pytest.mark.parametrize("text", ["conv1: [", "- conv1", "conv1: !!python/object/apply:os.getcwd []", ""])
def test_file_that_is_no_configuration_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"low\.yaml"):
        read(text, tmp_path)
    with pytest.raises(UsageError, match="not readable"):
        musco.read(tmp_path / "nowhere.yaml", LAYERS, TABLE)

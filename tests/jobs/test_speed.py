"""The figure "speed" of search and transfer on a machine without the profile's GPU."""

import json
from pathlib import Path

import pytest
import torch
from command_line import change, succeed

NOTE = "note: speed is measured in ONNX Runtime on the CPU, which may rank otherwise than the target: there is no SM86"


@pytest.fixture
def no_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change("search", figure="speed", alphabet="Q", budget=1)
    path = Path("tiny.toml")
    path.write_text(path.read_text().replace('target = "ort"', 'target = "trt"'))


@pytest.mark.usefixtures("no_gpu")
def test_search_says_that_speed_is_not_that_of_the_target() -> None:
    done = succeed("search")
    assert done.err.count(NOTE) == 1
    assert "measured (a fresh run may differ)" in done.err


@pytest.mark.usefixtures("no_gpu")
def test_transfer_measures_speed_and_says_the_same() -> None:
    done = succeed("transfer", "--strategy", "Q", "--out", "moved", "--json")
    assert done.err.count(NOTE) == 1
    assert done.json["figures"]["speed_ratio"] > 0
    assert json.loads(Path("moved/result.json").read_text())["figures"] == done.json["figures"]

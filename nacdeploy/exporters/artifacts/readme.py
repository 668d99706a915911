"""The README of an artifact: how it is run by its runtime alone, in lines to copy.

The text holds numbers and names of this package alone; what a user named (classes, inputs, outputs) is read from the
manifest by the example, or stands there as a literal of Python.
"""

from textwrap import indent

from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts.artifact import Manifest, Preprocessing, TensorInfo
from nacdeploy.metrics import reading

_START = """
import json
from pathlib import Path

import numpy as np
"""
_FOLDER = """
folder = Path(".")  # where this file lies
manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
"""
_RESIZED = """
    short = min(image.size)
    sides = [{resize} if side == short else int({resize} * side / short) for side in image.size]
    image = image.resize(tuple(sides), Image.Resampling.{kind})
"""
_CROPPED = """
    left, top = round((image.width - {crop}) / 2), round((image.height - {crop}) / 2)
    image = image.crop((left, top, left + {crop}, top + {crop}))
"""
_SQUASHED = """
    if image.size != ({width}, {height}):
        image = image.resize(({width}, {height}), Image.Resampling.{kind})
"""
_GATED = """

def confidence(values):
{confidence}


# The first exit that is sure enough answers, else the network's own end.
answer = outputs[manifest["outputs"][0]["name"]][0]
for exit in manifest["gate"]["exits"]:
    values = outputs[exit["output"]][0]
    if confidence(values) >= exit["threshold"]:
        answer = values
        break
"""
_IN_SEGMENTS = """
import onnxruntime


def confidence(values):
{confidence}


# One segment after the other: the first exit that is sure enough answers, else the network's own end.
parts, exits = manifest["cascade"]["segments"], manifest["gate"]["exits"]
sessions = [
    onnxruntime.InferenceSession(str(folder / part["model_file"]), providers=["CPUExecutionProvider"])
    for part in parts
]
(carried,) = inputs.values()
for at, session in enumerate(sessions):
    outputs = session.run(parts[at]["outputs"], {{session.get_inputs()[0].name: carried}})
    answer, carried = outputs[0][0], outputs[-1]
    if at < len(exits) and confidence(answer) >= exits[at]["threshold"]:
        break
"""
# Of one sample's outputs `values` (K,): what `cascades.confidence` computes of many.
_CONFIDENCES = {
    "entropy": """odds = np.exp(values - values.max())
shares = odds / odds.sum()
return 1 + (shares * np.log(np.maximum(shares, 1e-30))).sum() / np.log(len(shares))""",
    "margin": """odds = np.sort(np.exp(values - values.max()))
return (odds[-1] - odds[-2]) / odds.sum()""",
}
_ANSWER = '\nanswer = outputs[manifest["outputs"][0]["name"]][0]\n'
_NAMES = 'names = manifest["class_names"]\n'
_SHAPES = """
for name, values in outputs.items():
    print(name, values.dtype, values.shape)
"""


def text(manifest: Manifest) -> str:
    """Return the README of an artifact, in Markdown."""
    target = targets.parse(manifest.target)
    pillow = ("pillow",) if _reads_pictures(manifest) else ()
    needs = ", ".join(("numpy", *pillow, *target.example.needs))
    parts = (
        f"# {manifest.chain or 'FP32'} for {target.title}",
        "An artifact of nacdeploy. `manifest.json` says what it is, how it was made and how it scored, and holds the "
        "sha256 of every other file; `lowering.json` says what became of each layer. `nacdeploy verify` checks all of "
        "it, `nacdeploy package` makes one tar of it.",
        f"Licence of the weights: {manifest.license or 'unknown'}.",
        *_whole(manifest),
        "## Inputs and outputs",
        _block("".join(_line("input", each) for each in manifest.inputs) + "".join(map(_output, manifest.outputs))),
        *_pixels(manifest),
        "## An example",
        f"It needs {needs}, and no nacdeploy.{_unlike(manifest, target)}",
        f"```python\n{example(manifest)}```",
    )
    return "\n\n".join(parts) + "\n"


def example(manifest: Manifest) -> str:
    """Return a program that answers for one input by the artifact's runtime alone."""
    code = targets.parse(manifest.target).example.code
    if _runs_in_segments(manifest):
        segments = _IN_SEGMENTS.format(confidence=indent(_confidence(manifest), "    "))
        return f"{_inputs(manifest)}{segments}{_said(manifest)}"
    return f"{_inputs(manifest)}\n{code.strip()}\n{_answer(manifest)}"


def _whole(manifest: Manifest) -> tuple[str, ...]:
    if not manifest.whole_file:
        return ()
    said = f"`{manifest.whole_file}` takes the place of the ONNX file that the network came from; the example below"
    return (f"{said} runs the network alone.",)


def _pixels(manifest: Manifest) -> tuple[str, ...]:
    if not manifest.preprocess_file:
        return ()
    told = "takes `pixels`, uint8 (N, H, W, C) of any size, and makes the input of them"
    return (f"`{manifest.preprocess_file}` {told}; single pixels may be a step of 255 from what Pillow makes.",)


def _line(kind: str, info: TensorInfo) -> str:
    shape = ", ".join(str(each) if isinstance(each, int) else "N" for each in info.shape)
    return f"{kind} {info.name!r}: {info.dtype} ({shape})\n"


def _output(info: TensorInfo) -> str:
    return _line("output", info)


def _block(lines: str) -> str:
    return f"```text\n{lines}```"


def _unlike(manifest: Manifest, target: targets.Target) -> str:
    """Say so where the example runs the ONNX file, and the target is another runtime."""
    if target.example is not targets.IN_ONNX_RUNTIME or target.timed_by_onnx_runtime:
        return ""
    return f" It runs the ONNX file in ONNX Runtime: of {target.title} no example is known."


def _reads_pictures(manifest: Manifest) -> bool:
    return manifest.preprocessing is not None and manifest.preprocessing.channels in (1, 3)


def _inputs(manifest: Manifest) -> str:
    """Return the lines that make `inputs`."""
    taken = manifest.preprocessing
    if taken is None:
        made = "".join(f"    {each.name!r}: np.zeros({_shape(each)}, {each.dtype!r}),\n" for each in manifest.inputs)
        return f"{_START.strip()}\n{_FOLDER}inputs = {{  # values of yours\n{made}}}\n"
    pillow = "from PIL import Image, ImageOps\n" if _reads_pictures(manifest) else ""
    read = _of_picture(taken) if pillow else _of_array(taken)
    file = "picture.png" if pillow else "values.npy"
    given = f"inputs = {{{manifest.inputs[0].name!r}: prepared({file!r})}}  # an image of yours\n"
    return f"{_START.strip()}\n{pillow}{_FOLDER}\n\ndef prepared(path):\n{read}{_normalized(taken)}\n\n{given}"


def _shape(info: TensorInfo) -> tuple[int, ...]:
    return tuple(each if isinstance(each, int) else 1 for each in info.shape)


def _of_picture(taken: Preprocessing) -> str:
    """Return the lines from a file to pixels `(H, W, C)`."""
    mode = "L" if taken.channels == 1 else "RGB"
    read = "    image = ImageOps.exif_transpose(Image.open(path))\n"
    if taken.bits > 8:
        read += f'    image = Image.fromarray((np.asarray(image.convert("I")) >> {taken.bits - 8}).astype(np.uint8))\n'
    return f'{read}    image = image.convert("{mode}")\n{_sized(taken)}    pixels = np.asarray(image, np.float32)\n'


def _sized(taken: Preprocessing) -> str:
    kind = taken.interpolation.upper()
    resized = _RESIZED.format(resize=taken.resize, kind=kind).lstrip("\n") if taken.resize else ""
    cropped = _CROPPED.format(crop=taken.crop).lstrip("\n") if taken.crop else ""
    return resized + cropped + _SQUASHED.format(width=taken.width, height=taken.height, kind=kind).lstrip("\n")


def _of_array(taken: Preprocessing) -> str:
    shape = (taken.channels, taken.height, taken.width)
    return f"    pixels = np.load(path).astype(np.float32).transpose(1, 2, 0)  # of shape {shape}\n"


def _normalized(taken: Preprocessing) -> str:
    """Return the lines from pixels `(H, W, C)` to the input `(1, C, H, W)`."""
    pixels = f"pixels.reshape({taken.height}, {taken.width}, {taken.channels})"
    if taken.channel_order == "bgr":
        pixels += "[:, :, ::-1]"
    mean, std = list(taken.mean), list(taken.std)
    return (
        f"    values = ({pixels} * {taken.scale!r} - np.array({mean})) / np.array({std})\n"
        "    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)\n"
    )


def _answer(manifest: Manifest) -> str:
    """Return the lines that print what `outputs` say."""
    if manifest.preprocessing is None:
        return _SHAPES
    rule = _confidence(manifest)
    answer = _GATED.format(confidence=indent(rule, "    ")) if rule else _ANSWER
    return f"{answer}{_said(manifest)}"


def _said(manifest: Manifest) -> str:
    """Return the lines that print what the array `answer` (K,) says."""
    read = reading(manifest.metric)
    return f"{_NAMES if 'names' in read.answer else ''}{read.answer}\n"


def _confidence(manifest: Manifest) -> str:
    """Return the body of the function by which the gate rates outputs; "" if there is no gate."""
    gate, own = manifest.gate, reading(manifest.metric).confidence
    return _CONFIDENCES.get(gate.confidence, own) if gate and gate.exits else ""


def _runs_in_segments(manifest: Manifest) -> bool:
    """Tell whether the example runs segments: where ONNX Runtime does, and images are given."""
    cascade, target = manifest.cascade, targets.parse(manifest.target)
    is_plain = target.example is targets.IN_ONNX_RUNTIME and manifest.preprocessing is not None
    return cascade is not None and cascade.form != "whole" and is_plain and bool(_confidence(manifest))

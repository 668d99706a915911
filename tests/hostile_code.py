"""Strangers' files that hold or name code. Each line of it that runs leaves a mark in the file $NACDEPLOY_CANARY."""

import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

CANARY = "NACDEPLOY_CANARY"
EVIL = """
import os
with open(os.environ["NACDEPLOY_CANARY"], "a") as mark:
    mark.write("x")
from torch import nn
def make(n_classes=10, channels=1):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes))
"""
MARKED = f"import os; open(os.environ['{CANARY}'], 'a').write('x')"
_SHELL = f'printf x >> "${CANARY}"'


class _Calls:
    """What its pickle calls when it is loaded."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self._call = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def _pickles() -> dict[str, bytes]:
    """Files of weights by name, in every form that torch reads."""
    calls = {
        "exec": _Calls(exec, MARKED),
        "eval": _Calls(eval, f"exec({MARKED!r})"),
        "system": _Calls(os.system, _SHELL),
    }
    tensors = OrderedDict(weight=torch.zeros(2, 2))
    made: dict[str, bytes] = {}
    for name, call in calls.items():
        for protocol in (0, 2, 4):
            made[f"plain-{name}-{protocol}.pt"] = pickle.dumps({"state_dict": call}, protocol)
            made[f"key-{name}-{protocol}.pt"] = pickle.dumps({"state_dict": tensors, "args": [call]}, protocol)
        for form in (True, False):
            file = io.BytesIO()
            torch.save({"state_dict": tensors, "optimizer": call}, file, _use_new_zipfile_serialization=form)
            made[f"torch-{name}-{form}.pt"] = file.getvalue()
    return made


def _another_name(content: bytes) -> dict[str, bytes]:
    return {"evil.safetensors": content, "evil.bin": content, "evil.ckpt": content, "evil": content}


WEIGHTS = {**_pickles(), **_another_name(pickle.dumps(_Calls(exec, MARKED), 2))}
_TABLE = {"framework": "torch", "compressor": "level", "config_list": [{"sparsity": 0.5}]}
_YAMLS = {
    "apply.yaml": f"stem.0: !!python/object/apply:exec [{MARKED!r}]\n",
    "new.yaml": f"stem.0: !!python/object/new:os.system [{_SHELL!r}]\n",
    "name.yaml": "stem.0: !!python/module:evil\n",
}
_RECORDS = {
    "runs/search-1/run.json": ("profile", "model"),
    "runs/search-1/checkpoint/checkpoint.json": ("model", "name"),
    "runs/search-1/result.json": ("model",),
}

CASES: dict[str, tuple[str, ...]] = {
    **{f"weights {name}": ("transfer", "--strategy", "P", "--checkpoint", name, "--out", "out") for name in WEIGHTS},
    **{
        f"{' '.join(line)} of a record that names a model": line
        for line in (
            ("show", "runs/search-1"),
            ("show", "--settings", "runs/search-1"),
            ("report", "runs/search-1"),
            ("export", "--from", "runs/search-1", "--out", "out"),
            ("finetune", "--from", "runs/search-1", "--out", "out"),
            ("encode", "runs/search-1", "--out", "out.nac"),
            ("transfer", "--strategy", "P", "--checkpoint", "runs/search-1/checkpoint", "--out", "out"),
            ("search", "--resume", "runs/search-1"),
            ("search", "--resume", "runs/search-1", "--fork", "--budget", "3", "--out", "out"),
            ("search", "--profile", "evil.toml", "--out", "out"),
            ("transfer", "--strategy", "evil.strategy.json", "--out", "out"),
            ("compress", "script.json", "--out", "out"),
            ("compress", "shell.json", "--out", "out"),
            ("compress", "above.json", "--out", "out"),
            ("decode", "evil.nac", "--out", "out"),
            ("doctor",),
            ("trust",),
        )
    },
    **{
        f"data {kind}": ("transfer", "--strategy", "P", "--data", f"{kind}:evil-data", "--out", "out")
        for kind in ("folder", "npy", "cifar10", "svhn", "tiny-imagenet", "fashion-mnist")
    },
    "data npz": ("transfer", "--strategy", "P", "--data", "npz:evil-data/images.npz", "--out", "out"),
    "data csv": ("transfer", "--strategy", "P", "--data", "csv:evil-data/evil.csv", "--out", "out"),
    **{
        f"musco {name}": ("transfer", "--strategy", "D", "--profile", f"{name}.toml", "--out", "out") for name in _YAMLS
    },
}


def make(place: Path) -> None:
    """Put all of it into a copy of a folder in which search and encode have run."""
    for name in ("evil.py", "sitecustomize.py", "usercustomize.py", "conftest.py"):
        (place / name).write_text(EVIL)
    (place / "evil.sh").write_text(f"#!/bin/sh\n{_SHELL}\n")
    (place / "evil.sh").chmod(0o755)
    shutil.copy(place / "evil.py", place.parent / "evil.py")
    os.utime(place.parent / "evil.py", (0, 0))
    for name, content in WEIGHTS.items():
        (place / name).write_bytes(content)
    profile = (place / "tiny.toml").read_text()
    for name, text in _YAMLS.items():
        (place / name).write_text(text)
        (place / f"{name}.toml").write_text(f'{profile}\n[decompose]\nconfig = "{name}"\n')
    for name, script in (("script", "evil.py"), ("shell", "evil.sh"), ("above", "../w/evil.py")):
        (place / f"{name}.json").write_text(json.dumps({"name": name, "script": script, "compression": _TABLE}))
    (place / "evil.toml").write_text(
        (place / "tiny.toml").read_text().replace('"resnet8"\nwidth = 8', '"evil.py:make"')
    )
    for name, keys in _RECORDS.items():
        _set(place / name, keys, "evil.py:make")
    strategy = json.loads((place / "runs/search-1/strategy.json").read_text())
    (place / "evil.strategy.json").write_text(json.dumps({**strategy, "model": "evil.py:make"}))
    (place / "evil.nac").write_bytes((place / "model.nac").read_bytes().replace(b"checkpoint.json", b"../w/../evil.py"))
    _data(place / "evil-data")


def _set(path: Path, keys: tuple[str, ...], value: str) -> None:
    data = json.loads(path.read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(data))


def _data(folder: Path) -> None:
    """Data sets whose files are pickles."""
    content = pickle.dumps(_Calls(exec, MARKED), 2)
    for name in (
        "a/1.png",
        "b/1.png",
        "images.npy",
        "labels.npy",
        "evil.csv",
        "train_32x32.mat",
        "val/val_annotations.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for part in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"):
        (folder / "cifar-10-batches-py").mkdir(exist_ok=True)
        (folder / "cifar-10-batches-py" / part).write_bytes(content)
    with contextlib.closing(zipfile.ZipFile(folder / "images.npz", "w")) as archive:
        for name in ("images.npy", "labels.npy"):
            archive.writestr(name, content)

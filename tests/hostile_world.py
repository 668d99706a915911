"""One valid file of each kind that nacdeploy reads, and how it is read: see contracts/test_hostile_files.py."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile_code
import torch
from torch import nn

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.progress import Silent
from nacdeploy.cli.main import cli
from nacdeploy.cli.settings_file import defaults
from nacdeploy.coding import container, rule_files
from nacdeploy.commands import explain as explaining
from nacdeploy.commands import show as showing
from nacdeploy.commands import sources
from nacdeploy.commands.encode import encode
from nacdeploy.experiments.config import grammar
from nacdeploy.exporters import carry
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.float_twin import float_twin
from nacdeploy.exporters.targets.ort.probe_models import Layer
from nacdeploy.latencies import table
from nacdeploy.latencies.setting import setting_of
from nacdeploy.models import weights
from nacdeploy.sessions import resuming
from nacdeploy.sessions.runs import Runs
from nacdeploy.strategies.memory.entries import Entries, entry_name
from nacdeploy.strategies.memory.store import Store
from nacdeploy.strategies.operators.decompose import musco
from nacdeploy.strategies.operators.decompose.settings import DecomposeTable
from nacdeploy.strategies.search import journal
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.strategies.strategy import resolve

CHECKPOINT = "runs/followed/checkpoint"
OLDER = Path(__file__).parent / "fixtures" / "written_by_0_11"
LAYERS: dict[str, nn.Module] = {"conv1": nn.Conv2d(16, 32, 3), "conv2": nn.Conv2d(32, 64, 1), "fc": nn.Linear(64, 10)}
ENTRY = {"score": 0.5, "kept": [1, 2, 3], "name": "a"}

_EXPERIMENT = {
    "name": "e",
    "n_samples": 4,
    "random_seed": 3,
    "proposer": "random",
    "compression": {
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}],
    },
    "job_failure": {"job_retries": 2, "ignore_fail": True},
    "resource_args": {"save_model": True, "early_stop": {"aup_policy": "median", "warmup": 2}},
}
_SPEED = {"value": 1.2, "low": 1.1, "high": 1.3}
_PRECISION = {
    "target": "ort",
    "machine": "a CPU",
    "layers": {"conv1": "int8", "fc": "float"},
    "kinds": {"conv1": "conv 3x3", "fc": "linear"},
    "speed": _SPEED,
    "n_timed": 3,
}
_RULES = "conv1 element 0.1,0.2\nconv.* k-means 4 k-means++\nfc.* huffman 4 1 5\nfc 0.25\n# a comment\n"


@dataclass(frozen=True)
class Kind:
    """A kind of file: where a valid one lies in the world, its form, and what is made of it. `mend` makes what
    somebody who changes the file would change with it."""

    name: str
    file: str
    form: str
    read: Callable[[Path], Any]
    mend: Callable[[Path], None] = lambda world: None


def make(world: Path) -> Path:
    """A folder with one valid file of each kind."""
    shutil.copytree(OLDER, world, dirs_exist_ok=True)
    encode(world / CHECKPOINT, world / "model.nac")
    texts = {"experiment.json": _EXPERIMENT, "precision.json": _PRECISION, "layers.json": latency_table()}
    for name, data in texts.items():
        (world / name).write_text(json.dumps(data, indent=1))
    (world / "rules.txt").write_text(_RULES)
    (world / "evil.py").write_text(hostile_code.EVIL)
    (world / "low.yaml").write_text(musco.text(musco.generated(LAYERS, "vbmf")))
    (world / "last.json").write_text(json.dumps({"result": str(world / "runs/followed")}))
    torch.manual_seed(0)
    torch.save({"state_dict": LAYERS["conv2"].state_dict(), "epoch": 3}, world / "weights.pt")
    Entries(Store.open(world / "store", 2**20), print).write("metrics", "key", ENTRY)
    return world


def latency_table() -> dict[str, Any]:
    setting = setting_of(profiles.load("demo"))
    layer = Layer((1, 8, 8), (4, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    found = table.LatencyTable(setting, 0.5, 0.01, (table.LayerTime(layer, 0.1),))
    return dict(records.to_data(found))


def _checkpoint(path: Path) -> Any:
    state, record = checkpoint.load(path)
    return [state.key, records.to_data(record), showing.show(str(path)).data]


def _values(path: Path) -> Any:
    state, _ = checkpoint.load(path)
    return state.key


def _artifact(path: Path) -> Any:
    manifest, rows = artifact.load(path)
    return [records.to_data(manifest), [records.to_data(row) for row in rows], showing.show(str(path)).lines]


def _graph(path: Path) -> Any:
    """What `explain` looks at before it runs anything."""
    found = explaining.opened(path)
    twin = float_twin(found.file) if found.is_quantized else found.file
    return [str(found.layers({})), hashlib.sha256(twin.SerializeToString()).hexdigest()]


def _rehash(world: Path) -> None:
    """The hashes of the artifact's manifest as its files are now."""
    folder = world / "artifact"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _run(path: Path) -> Any:
    found = resuming.recorded(path)
    return [
        records.to_data(found),
        [str(row) for row in sources.in_force(str(path), {}, {}, None, None, Silent()).rows()],
    ]


def _journal(path: Path) -> Any:
    header, rows = journal.read(path)
    return [header, [records.to_data(row) for row in rows]]


def _strategy(path: Path) -> Any:
    return [records.to_data(resolve(str(path))), showing.show(str(path)).lines]


def _decoded(path: Path) -> Any:
    with container.Reader(path) as reader:
        return {entry.path: hashlib.sha256(reader.file(entry)).hexdigest() for entry in reader.header.files}


def _entry(world: Path) -> Any:
    said: list[str] = []
    found = Entries(Store.open(world / "store", 2**20), said.append).read("metrics", "key", lambda data: data)
    assert all("\n" not in line for line in said)
    return ENTRY if found is None and len(said) == 1 else found


def _pt(path: Path) -> Any:
    found = weights.fitting(path, LAYERS["conv2"])
    return [{name: value.tolist() for name, value in found.values.items()}, found.notes]


def _experiment(path: Path) -> Any:
    read = grammar.read(records.read_json(path), str(path), path.stem)
    return [read.experiment.model_dump(mode="json"), read.ignored, [str(each) for each in read.experiment.spaces]]


def _rules(path: Path) -> Any:
    found = rule_files.read(path)
    return [[str(line) for line in found.lines], found.problems, str(rule_files.tables(found, LAYERS))]


def _options(path: Path) -> Any:
    return defaults(cli, path)


KINDS = (
    Kind(
        "checkpoint",
        f"{CHECKPOINT}/checkpoint.json",
        "json",
        lambda w: _checkpoint(w / CHECKPOINT),
    ),
    Kind(
        "values",
        f"{CHECKPOINT}/model.safetensors",
        "safetensors",
        lambda w: _values(w / CHECKPOINT),
    ),
    Kind("weights", "weights.pt", "bytes", lambda w: _pt(w / "weights.pt")),
    Kind("graph, hashed", "artifact/model.onnx", "bytes", lambda w: _artifact(w / "artifact")),
    Kind("graph", "artifact/model.onnx", "bytes", lambda w: _graph(w / "artifact"), _rehash),
    Kind("manifest", "artifact/manifest.json", "json", lambda w: _artifact(w / "artifact")),
    Kind("lowering", "artifact/lowering.json", "json", lambda w: _artifact(w / "artifact"), _rehash),
    Kind("run", "runs/killed/run.json", "json", lambda w: _run(w / "runs/killed")),
    Kind("journal", "runs/killed/journal.jsonl", "jsonl", lambda w: _journal(w / "runs/killed/journal.jsonl")),
    Kind("result", "runs/followed/result.json", "json", lambda w: showing.show(str(w / "runs/followed")).lines),
    Kind("last", "last.json", "json", lambda w: str(Runs(w).last())),
    Kind("strategy", "runs/followed/strategy.json", "json", lambda w: _strategy(w / "runs/followed/strategy.json")),
    Kind("profile", "tiny.toml", "toml", lambda w: profiles.load(str(w / "tiny.toml")).model_dump(mode="json")),
    Kind("options", "nacdeploy.toml", "toml", lambda w: _options(w / "nacdeploy.toml")),
    Kind("experiment", "experiment.json", "json", lambda w: _experiment(w / "experiment.json")),
    Kind("rules", "rules.txt", "text", lambda w: _rules(w / "rules.txt")),
    Kind("musco", "low.yaml", "yaml", lambda w: str(musco.read(w / "low.yaml", LAYERS, DecomposeTable()))),
    Kind("container", "model.nac", "container", lambda w: _decoded(w / "model.nac")),
    Kind("entry", f"store/{entry_name('metrics', 'key')}", "bytes", _entry),
    Kind("precision", "precision.json", "json", lambda w: records.to_data(carry.read(w / "precision.json"))),
    Kind("latency", "layers.json", "json", lambda w: records.to_data(table.read(w / "layers.json"))),
)
# Bits that change in these are seen by a hash; in the others they may make another valid file.
HASHED = {"values", "graph, hashed", "container", "entry"}

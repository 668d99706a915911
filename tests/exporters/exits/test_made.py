"""Exits that save time: the forms of an artifact answer alike, and its files are whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import follow, make_profile
from numpy.typing import NDArray

import nacdeploy
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.cascades.cascade import gated
from nacdeploy.cascades.confidence import RULES
from nacdeploy.exporters import describe, targets
from nacdeploy.exporters import export as exporting
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.exits import deployed, made
from nacdeploy.exporters.onnx_graph.cutting import segmented
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.metrics import gate_of, named
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

BENCH = {"n_rounds": 3, "round_ms": 0.5}


def exported(state: CompressionState, task: Task, out: Path, target: str = "ort", **export: Any) -> Path:
    table = {"n_autotune_rounds": 3, "compute_capabilities": ["SM86"], **export}
    profile = make_profile(export=table, bench=BENCH, exits={"max_drop": 3.0})
    return exporting.export(state, task, profile, targets.parse(target), out, Context())


@pytest.fixture(scope="module")
def leaving(baseline: CompressionState, task: Task) -> CompressionState:
    """A quantized network with two exits."""
    return follow(baseline, "QE", task, make_profile())


def images(task: Task) -> NDArray[Any]:
    found: NDArray[Any] = task.data.normalize(task.data.test.images).numpy()
    return found


def whole_outputs(folder: Path, x: NDArray[Any]) -> list[NDArray[Any]]:
    """The outputs of all exits, the network's own last, by the whole graph of an artifact."""
    runner = OnnxRunner(folder / "model.onnx")
    found = dict(zip(runner.output_names, runner.run(x), strict=True))
    return [found["exit_1"], found["exit_2"], found["logits"]]


def halved(folder: Path, task: Task, rule: str = "softmax") -> Path:
    """An artifact with thresholds at which half of the test images leave at each exit, whatever a clock said."""
    confidences = [RULES[rule](each) for each in whole_outputs(folder, images(task))[:-1]]
    nacdeploy.tune(folder, thresholds=[float(np.median(each)) + 1e-5 for each in confidences])
    return folder


@pytest.fixture(scope="module")
def folders(leaving: CompressionState, task: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("forms")
    forms = ("segments", "if")
    return {form: halved(exported(leaving, task, place / form, exits=form), task) for form in forms}


@pytest.mark.parametrize("form", ["segments", "if"])
@pytest.mark.parametrize("n", [1, 7, 60])
def test_artifact_answers_as_its_whole_graph_behind_the_gate(
    form: str, n: int, folders: dict[str, Path], task: Task
) -> None:
    opened = deployed.load(folders[form])
    x = images(task)
    thresholds = opened.thresholds
    expected = gated(whole_outputs(folders[form], x), thresholds, RULES["softmax"])
    assert set(expected.exits.tolist()) == {0, 1, 2}
    for start in range(0, len(x), n):
        found = opened.run(x[start : start + n])
        assert found.exits.tolist() == expected.exits[start : start + n].tolist()
        assert np.array_equal(found.outputs, expected.outputs[start : start + n])


def test_segments_pass_on_8_bits(folders: dict[str, Path]) -> None:
    manifest, _ = artifact.load(folders["segments"])
    assert manifest.cascade is not None
    passed = [part.passes for part in manifest.cascade.segments]
    assert [each.dtype if each else "" for each in passed] == ["uint8", "uint8", ""]
    assert all(each is None or (each.scale or 0) > 0 for each in passed)
    assert manifest.cascade.form == "segments" and len(manifest.cascade.ways_ms) == 3


def test_every_file_of_the_forms_has_a_hash(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        manifest, _ = artifact.load(folder)
        here = {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}
        assert here == {"manifest.json", *manifest.files}
        assert manifest.cascade is not None and set(manifest.cascade.names) <= set(manifest.files)


def test_size_is_that_of_the_files_that_run(folders: dict[str, Path]) -> None:
    folder = folders["segments"]
    manifest, _ = artifact.load(folder)
    sizes = [each.stat().st_size for each in folder.glob("segments/*/model.onnx")]
    assert len(sizes) == 3 and artifact.size_bytes(folder, manifest) == sum(sizes)


def test_damaged_segment_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["segments"], tmp_path / "a")
    broken = tmp_path / "a" / "segments" / "1" / "model.onnx"
    broken.write_bytes(broken.read_bytes() + b"0")
    with pytest.raises(NacdeployError, match=r"segments/1/model\.onnx is damaged"):
        deployed.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"segments": []}, "2 exits do not go with 0 segments"),
        ({"if_file": "model.onnx"}, "do not go with"),
        ({"curve_file": "other.json"}, "has no hash of 'other.json'"),
        ({"ways_ms": [1.0]}, "are 3 each"),
        ({"segments": 3}, "segments"),
    ],
)
def test_cascade_of_another_s_manifest_is_checked(
    changes: dict[str, Any], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["segments"], tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    data = json.loads(path.read_text())
    data["cascade"] |= changes
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=said):
        artifact.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("outputs", "said"),
    [(["exit_1"], "has the outputs of its exit and what goes on"), (["exit_1", "nothing"], "no output 'nothing'")],
)
def test_outputs_of_another_s_segments_are_checked(
    outputs: list[str], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["segments"], tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    data = json.loads(path.read_text())
    data["cascade"]["segments"][0]["outputs"] = outputs
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=said):
        deployed.load(tmp_path / "a")


def test_gate_says_by_what_the_metric_is_sure() -> None:
    said = {name: describe.said_rule(gate_of(named(name))) for name in ("accuracy", "agreement", "f1")}
    assert said["accuracy"] == said["agreement"] == "take the first exit whose softmax maximum reaches its threshold"
    assert said["f1"] == "take the first exit whose least sure label reaches its threshold"


def test_images_of_another_shape_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(NacdeployError, match="the network takes"):
        deployed.load(folders["segments"]).run(np.zeros((2, 1, 9, 9), np.float32))
    empty = deployed.load(folders["segments"]).run(np.zeros((0, 1, 8, 8), np.float32))
    assert empty.outputs.shape == (0, 10) and len(empty.exits) == 0


@pytest.mark.parametrize("gate", ["entropy", "margin"])
def test_gate_is_the_rule_of_the_profile(gate: str, leaving: CompressionState, task: Task, tmp_path: Path) -> None:
    folder = halved(exported(leaving, task, tmp_path / "a", exits="if", gate=gate), task, gate)
    opened, x = deployed.load(folder), images(task)
    assert opened.manifest.gate is not None and opened.manifest.gate.confidence == gate
    expected = gated(whole_outputs(folder, x), opened.thresholds, RULES[gate])
    assert opened.run(x).exits.tolist() == expected.exits.tolist()
    assert [int(opened.run(each[None]).exits[0]) for each in x] == expected.exits.tolist()


def test_threshold_of_the_profile_holds_for_all_exits(leaving: CompressionState, task: Task, tmp_path: Path) -> None:
    profile = make_profile(export={"exits": "segments", "n_autotune_rounds": 3}, bench=BENCH, exits={"threshold": 0.4})
    folder = exporting.export(leaving, task, profile, targets.parse("ort"), tmp_path / "a", Context())
    opened = deployed.load(folder)
    assert opened.thresholds == (0.4, 0.4) and opened.manifest.cascade is not None
    answered = opened.run(task.data.normalize(task.data.validation.images).numpy())
    shares = np.bincount(answered.exits, minlength=3) / len(answered.exits)
    assert opened.manifest.cascade.fractions == pytest.approx(shares)
    ways = np.array(opened.manifest.cascade.ways_ms)
    assert opened.manifest.cascade.expected_ms == pytest.approx(float(shares @ ways))


def test_float_network_is_cut_too(baseline: CompressionState, task: Task, tmp_path: Path) -> None:
    state = follow(baseline, "E", task, make_profile())
    opened, x = deployed.load(halved(exported(state, task, tmp_path / "a", exits="segments"), task)), images(task)
    outputs = whole_outputs(tmp_path / "a", x)
    answered = opened.run(x)
    expected = gated(outputs, opened.thresholds, RULES["softmax"])
    assert answered.exits.tolist() == expected.exits.tolist()
    np.testing.assert_allclose(answered.outputs, expected.outputs, atol=1e-4)


def test_openvino_runs_segments(leaving: CompressionState, task: Task, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = halved(exported(leaving, task, tmp_path / "a", "openvino", exits="segments"), task)
    opened, x = deployed.load(folder), images(task)
    answered = opened.run(x)
    assert set(answered.exits.tolist()) == {0, 1, 2}
    assert [int(opened.run(each[None]).exits[0]) for each in x] == answered.exits.tolist()
    right = (torch.from_numpy(answered.outputs).argmax(1) == task.data.test.labels).float().mean()
    assert float(right) > 0.6


def test_tensorrt_builds_an_engine_of_every_segment(leaving: CompressionState, task: Task, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = exported(leaving, task, tmp_path / "a", "trt-rtx", exits="segments")
    manifest, _ = artifact.load(folder)
    assert manifest.cascade is not None
    for part in manifest.cascade.segments:
        assert (folder / part.engines["SM86"]).stat().st_size > 1000
        assert part.builds["SM86"]["graph_sha256"] == manifest.files[part.model_file.replace(".onnx", "-fp16.onnx")]
    assert [part.passes.dtype for part in manifest.cascade.segments if part.passes] == ["int8", "int8"]


def test_whole_graph_stays_where_it_is_asked_for(leaving: CompressionState, task: Task, tmp_path: Path) -> None:
    manifest, _ = artifact.load(exported(leaving, task, tmp_path / "a", exits="whole"))
    assert manifest.cascade is None and manifest.gate is not None
    assert any("no time saved in this form" in note for note in manifest.notes)


def test_target_that_is_not_timed_here_keeps_the_whole_graph(
    leaving: CompressionState, task: Task, tmp_path: Path
) -> None:
    manifest, _ = artifact.load(exported(leaving, task, tmp_path / "a", "onnx", exits="auto"))
    assert manifest.cascade is None
    assert any("is not timed here; export.exits = 'segments' cuts" in note for note in manifest.notes)


def test_form_that_a_target_does_not_take_is_refused(leaving: CompressionState, task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"export\.exits = 'if' is not for target 'openvino', which takes auto, whole"):
        exported(leaving, task, tmp_path / "a", "openvino", exits="if")
    assert not (tmp_path / "a").exists()


def test_example_of_the_readme_runs_segments_alone(folders: dict[str, Path], task: Task, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "a"
    shutil.copytree(folders["segments"], folder)
    text = (folder / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    (folder / "example.py").write_text(code)
    opened = deployed.load(folder)
    for index in range(3):
        pixels = task.data.test.images[index]
        Image.fromarray(pixels[0].numpy()).save(folder / "picture.png")
        blocked = "import sys; sys.modules.update(dict.fromkeys(('nacdeploy', 'torch', 'onnx')))\n"
        done = subprocess.run([sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True)
        answered = opened.run(task.data.normalize(pixels[None]))
        assert done.stdout.strip() == task.data.class_names[int(answered.outputs.argmax())], done.stderr


@pytest.mark.gpu
def test_engines_of_segments_answer_as_the_whole_graph(leaving: CompressionState, task: Task, tmp_path: Path) -> None:
    capability = gpu.require_gpu("this test")
    folder = exported(leaving, task, tmp_path / "a", "trt", exits="segments", compute_capabilities=[capability])
    opened, x = deployed.load(folder), images(task)
    assert opened.runtime.endswith(capability)
    expected = gated(whole_outputs(folder, x), opened.thresholds, RULES["softmax"])
    answered = opened.run(x)
    assert float((answered.exits == expected.exits).mean()) > 0.9
    assert float((answered.outputs.argmax(1) == expected.outputs.argmax(1)).mean()) > 0.95


def test_graph_without_a_cut_stays_whole_or_is_refused(
    leaving: CompressionState, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection from the first exit's block to the end, as a user's forward may have it."""

    def crossed(model: onnx.ModelProto, exits: Any, ends: Any) -> Any:
        other = onnx.ModelProto()
        other.CopyFrom(model)
        (last,) = [node for node in other.graph.node if node.op_type == "GlobalAveragePool"]
        early = next(node for node in other.graph.node if node.op_type == "Relu").output[0]
        pool = onnx.helper.make_node("GlobalAveragePool", [early], ["early_mean"], "early")
        add = onnx.helper.make_node("Add", ["late_mean", "early_mean"], [last.output[0]], "around")
        last.output[0] = "late_mean"
        at = next(i for i, node in enumerate(other.graph.node) if node.output[0] == "late_mean") + 1
        other.graph.node.insert(at, add)
        other.graph.node.insert(at, pool)
        return segmented(other, exits, ends)

    monkeypatch.setattr(made, "segmented", crossed)
    with pytest.raises(NacdeployError, match=r"choose other exits\.places, or set export\.exits = 'whole'"):
        exported(leaving, task, tmp_path / "a", exits="segments")
    assert not (tmp_path / "a").exists()
    manifest, _ = artifact.load(exported(leaving, task, tmp_path / "b", exits="auto"))
    assert manifest.cascade is None
    assert any("no time saved in this form; " in note and "'exit_1'" in note for note in manifest.notes)

"""The worker of the peer benchmark: what it answers, and that its own clock is what counts."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.peers import timing
from benchmarks.peers.timing import Images, Subject, Worker


def doubling_model(path: Path) -> Path:
    """An ONNX file that answers (N, 3) logits with twice its input."""
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("images", "logits")]
    node = helper.make_node("Add", ["images", "images"], ["logits"])
    graph = helper.make_graph([node], "doubling", shapes[:1], shapes[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Images:
    pictures = np.eye(3, dtype=np.float32)
    found = Images(tmp_path / "images.npy", np.array([0, 1, 0]))
    np.save(found.path, pictures)
    np.save(found.first, pictures[:1])
    return found


def test_measured_gives_accuracy_and_ratio_of_each_subject(tmp_path: Path, images: Images) -> None:
    path = doubling_model(tmp_path / "model.onnx")
    subjects = [Subject("base", "fp32", path), Subject("other", "pruned", path, n_epochs=16)]

    rows = timing.measured(subjects, tmp_path, images)

    assert [row.validation_accuracy for row in rows] == pytest.approx([2 / 3, 2 / 3])
    assert rows[0].speed.value == 1
    assert rows[1].n_bytes == path.stat().st_size
    assert rows[1].n_epochs == 16


def test_worker_reports_what_the_runtime_refuses(tmp_path: Path) -> None:
    worker = Worker(Path(sys.executable))
    request = {"path": str(tmp_path / "none.onnx"), "runtime": "onnxruntime", "settings": {}, "image": ""}

    with pytest.raises(RuntimeError, match="lost: NoSuchFile"):
        worker.ask(do="load", name="lost", **request)

    worker.close()


def test_bytes_count_the_weights_that_openvino_keeps_beside_its_model(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_bytes(b"12")
    (tmp_path / "model.bin").write_bytes(b"345")

    assert Subject("openvino", "quantised", tmp_path / "model.xml").n_bytes == 5

"""The OpenVINO runner: what it answers, from ONNX, from an IR and from files, and what it refuses."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from qdq_graph import IMAGE, NetworkWriter

from nacdeploy.base.errors import MissingExtraError, NacdeployError
from nacdeploy.exporters.targets.openvino import probe
from nacdeploy.exporters.targets.openvino import runner as openvino
from nacdeploy.exporters.targets.openvino.runner import Ir, OpenVinoRunner, ir_from_onnx
from nacdeploy.exporters.targets.ort import probe as probes
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.timing import timer
from nacdeploy.profile.tables.deployment import BenchTable


@pytest.fixture(scope="module")
def model() -> bytes:
    return NetworkWriter().model().SerializeToString()


@pytest.fixture(scope="module")
def ir(model: bytes) -> Ir:
    return ir_from_onnx(model)


def images(n: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(n, *IMAGE)).astype(np.float32)


def test_openvino_answers_as_onnx_runtime(model: bytes) -> None:
    runner = OpenVinoRunner(model)
    assert runner.output_names == ("logits",)
    (expected,) = OnnxRunner(model, optimization="disabled").run(images())
    np.testing.assert_allclose(runner.run(images())[0], expected, atol=0.02 * np.abs(expected).max())


def test_pairs_of_activations_are_one_node_of_openvino(ir: Ir) -> None:
    """As pairs they let strides through, and convolutions behind them ran in float: open-nsfw at 2.5x, not 2.9x."""
    read = openvino._read(ir)
    kinds = [node.get_type_name() for node in read.get_ordered_ops()]
    behind = {
        reader.get_node().get_type_name()
        for node in read.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize"
        for reader in node.output(0).get_target_inputs()
    }
    assert "FakeQuantize" in kinds and "Convert" not in behind


def test_any_batch_is_taken(model: bytes) -> None:
    runner = OpenVinoRunner(model)
    assert [runner.run(images(n))[0].shape for n in (1, 4, 1)] == [(1, 10), (4, 10), (1, 10)]


def test_answers_stay_when_the_runner_runs_again(model: bytes) -> None:
    runner = OpenVinoRunner(model)
    (first,) = runner.run(images())
    kept = first.copy()
    runner.run(images() + 1)
    assert np.array_equal(first, kept)


def test_ir_and_its_files_answer_bit_for_bit_as_the_graph(model: bytes, ir: Ir, tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_bytes(ir.xml)
    (tmp_path / "model.bin").write_bytes(ir.weights)
    answers = [OpenVinoRunner(each).run(images())[0] for each in (model, ir, tmp_path / "model.xml")]
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_conversions_of_one_graph_give_the_same_bytes(model: bytes, ir: Ir) -> None:
    assert ir_from_onnx(model) == ir


def test_integers_stay_integers_in_the_ir(ir: Ir) -> None:
    assert b'element_type="i8"' in ir.xml
    assert len(ir.weights) < 2 * 32 * 32 * 9 + 32 * 27 + 10 * 32


def test_probe_finds_a_weight_width_that_is_exact() -> None:
    bits = probe.weight_bits()
    assert bits in (7, 8)
    assert probes.is_exact("conv", "unsigned", bits, OpenVinoRunner)


def test_timer_times_models_against_the_named_baseline(model: bytes) -> None:
    clock = timer(OpenVinoRunner, images(1), BenchTable(round_ms=1.0), 3)
    compared = clock({"one": model, "two": model}, "one")
    assert compared.ratios["one"].value == 1
    assert compared.latencies["two"].threads == 1


@pytest.mark.parametrize("damaged", ["graph", "xml", "weights", "missing"])
def test_damaged_model_is_refused_in_one_line(damaged: str, model: bytes, ir: Ir, tmp_path: Path) -> None:
    given = {
        "graph": b"no graph",
        "xml": Ir(ir.xml[:500], ir.weights),
        "weights": Ir(ir.xml, ir.weights[:100]),
        "missing": tmp_path / "model.xml",
    }[damaged]
    with pytest.raises(NacdeployError, match=r"^OpenVINO cannot (load|convert) [^\n]+$"):
        OpenVinoRunner(given)


def test_images_of_another_shape_are_refused_in_one_line(model: bytes) -> None:
    with pytest.raises(NacdeployError, match=r"^OpenVINO cannot run images of shape \(1, 5, 16, 16\): [^\n]+$"):
        OpenVinoRunner(model).run(np.zeros((1, 5, 16, 16), np.float32))


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    openvino._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    yield
    openvino._core.cache_clear()


@pytest.mark.usefixtures("missing")
def test_missing_package_is_named_with_the_line_that_adds_it(model: bytes) -> None:
    with pytest.raises(MissingExtraError, match=r"^target openvino needs .* pip install 'nacdeploy\[openvino\]'$"):
        OpenVinoRunner(model)

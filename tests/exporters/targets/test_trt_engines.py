"""Real TensorRT-RTX engines of a small INT8 network, built without a GPU, and every refusal."""

import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import helper
from qdq_graph import IMAGE, NetworkWriter

from nacdeploy.base import records
from nacdeploy.base.errors import MissingExtraError, NacdeployError, UsageError
from nacdeploy.exporters.artifacts.artifact import Lowering
from nacdeploy.exporters.targets.tensorrt import api as trt_api
from nacdeploy.exporters.targets.tensorrt import build as trt
from nacdeploy.exporters.targets.tensorrt import engine as trt_build
from nacdeploy.exporters.targets.tensorrt import plan as trt_plan
from nacdeploy.profile.tables.deployment import ExportTable

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has wheels for Linux x86-64 only"
)


def table(*capabilities: str, float_type: str = "fp16") -> ExportTable:
    return ExportTable(compute_capabilities=capabilities, float_type=float_type, max_batch=4)


def build(model: onnx.ModelProto, settings: ExportTable, **options: object) -> trt.Engines:
    written = model.SerializeToString()
    options = {"builder": "tensorrt_rtx", "log": lambda line: None, **options}
    return trt.build_engines(written, settings, "images", IMAGE, **options)


@needs_rtx
def test_build_engines_tells_what_each_engine_computes_in() -> None:
    engines = build(NetworkWriter().model(), table("SM75", "SM120"))
    assert set(engines.files) == {"SM75", "SM120"} and "FP16" in engines.notes[0]
    layers = {"conv1": "node_c1", "conv2": "node_c2", "fc": "node_logits"}
    assert {name: engines.layers["SM120"][node] for name, node in layers.items()} == dict.fromkeys(layers, "int8")
    rows = [Lowering(name, "conv", "w8a8", "int8", "", node) for name, node in layers.items()]
    note = "SM75: 2 of 3 INT8 layers are computed in float16 (conv1, conv2)"
    assert trt_plan.engine_notes(rows, engines.layers) == (note,)


@needs_rtx
def test_layer_types_reads_float_layers() -> None:
    model = NetworkWriter().model()
    convolution = next(node for node in model.graph.node if node.name == "node_c1")
    convolution.input[0] = "images"
    engines = build(model, table("SM89", float_type="fp32"))
    assert engines.layers["SM89"]["node_c1"] == "float32"
    assert engines.layers["SM89"]["node_c2"] == "int8"


@needs_rtx
def test_build_engines_logs_one_line_per_engine() -> None:
    lines: list[str] = []
    engines = build(NetworkWriter().model(), table("SM86", "SM89"), log=lines.append)
    assert [line.split(": ")[1] for line in lines] == [f"{len(plan)} bytes" for plan in engines.files.values()]


@needs_rtx
def test_build_engines_names_the_node_that_the_parser_rejects() -> None:
    model = NetworkWriter().model()
    strange = helper.make_node("Strange", ["images"], ["unused"], name="odd_one")
    scopes = "['', 'network.backbone.body.0', 'strange']"
    strange.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    model.graph.node.insert(0, strange)
    expected = r"TensorRT-RTX rejects node 'odd_one' \(Strange\), made by torch layer 'body.0': "
    with pytest.raises(NacdeployError, match=expected) as caught:
        build(model, table("SM89"))
    assert "\n" not in str(caught.value)


@needs_rtx
def test_build_engines_hands_on_the_reason_when_the_builder_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "_capabilities", lambda api, table: (("SM75",), ()))
    with pytest.raises(NacdeployError, match=r"cannot build for SM75: .*FP32 GEMM is not supported"):
        build(NetworkWriter().model(), table("SM75", float_type="fp32"))


@pytest.mark.parametrize(
    ("capability", "error", "message"),
    [
        ("SM87", NacdeployError, r"does not build for SM87: install TensorRT proper: pip install 'nacdeploy\[trt\]'"),
        ("SM90", NacdeployError, "does not build for SM90"),
        ("SM88", UsageError, r"unknown compute capability 'SM88'.*known: SM120"),
        ("SM75", UsageError, "no FP32 matrix multiplication for SM75"),
    ],
)
@needs_rtx
def test_build_engines_refuses_a_capability(capability: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(NetworkWriter().model(), table(capability, float_type="fp32"))


@needs_rtx
def test_build_engines_refuses_unsigned_activations() -> None:
    with pytest.raises(NacdeployError, match="node 'node_images_q' quantises to UINT8"):
        build(NetworkWriter(np.uint8).model(), table("SM89"))


@needs_rtx
def test_record_says_what_the_engine_was_built_with_and_survives_json() -> None:
    engines = build(NetworkWriter().model(), table("SM89"), sparse=True, seed=3)
    record = engines.records["SM89"]
    assert (record.builder, record.capability, record.float_type, record.io_type) == (
        "tensorrt_rtx",
        "SM89",
        "fp16",
        "fp32",
    )
    assert engines.builder == f"{record.builder} {record.version}"
    assert (record.flags, record.min_batch, record.max_batch, record.seed) == (("SPARSE_WEIGHTS",), 1, 4, 3)
    assert record.timing_cache_sha256 is None and "would need a GPU" in record.timing_cache
    assert records.from_data(trt_build.BuildRecord, records.to_data(record)) == record


@needs_rtx
def test_rebuilt_engine_is_the_same_program() -> None:
    engines = build(NetworkWriter().model(), table("SM89"))
    again = trt_build.rebuild(engines.records["SM89"], engines.graph)
    assert trt_build.compare("SM89", engines.files["SM89"], again).program_equal


@needs_rtx
def test_rebuilding_refuses_another_graph_and_another_version() -> None:
    engines = build(NetworkWriter().model(), table("SM89"))
    record = engines.records["SM89"]
    with pytest.raises(NacdeployError, match="the graph is not the one that the engine for SM89 was built with"):
        trt_build.rebuild(record, engines.graph + b" ")
    with pytest.raises(NacdeployError, match=r"was built by tensorrt_rtx 1\.6\.1, and .* is installed"):
        trt_build.rebuild(replace(record, version="1.6.1"), engines.graph)


@pytest.mark.parametrize(
    ("again", "bytes_equal", "program_equal", "said"),
    [
        (b"add __mye7 proxy___mye9 __mye7", True, True, "bytes equal"),
        (b"add __mye12 proxy___mye3 __mye12", False, True, "the same program"),
        (b"add __mye7 proxy___mye9 __mye9", False, False, "only be compared on a GPU"),
    ],
)
def test_compare_tells_numbering_from_difference(
    again: bytes, bytes_equal: bool, program_equal: bool, said: str
) -> None:
    found = trt_build.compare("SM89", b"add __mye7 proxy___mye9 __mye7", again)
    assert (found.bytes_equal, found.program_equal) == (bytes_equal, program_equal)
    assert said in found.said


@needs_rtx
def test_load_prefers_tensorrt_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_rtx

    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)
    assert trt_api.load("auto").name == "tensorrt"
    assert trt_api.load("tensorrt_rtx").name == "tensorrt_rtx"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert trt_api.load().name == "tensorrt_rtx"
    assert "TensorRT is not installed" in build(NetworkWriter().model(), table("SM89"), builder="auto").notes[0]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    for builder in ("auto", "tensorrt"):
        with pytest.raises(MissingExtraError, match=r"pip install 'nacdeploy\[trt\]'"):
            trt_api.load(builder)
    with pytest.raises(NacdeployError, match="pip install tensorrt-rtx-cu13"):
        trt_api.load("tensorrt_rtx")


@pytest.fixture
def as_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX under the name of TensorRT, for what is refused before anything is built."""
    monkeypatch.setitem(sys.modules, "tensorrt", pytest.importorskip("tensorrt_rtx"))


@pytest.mark.usefixtures("as_tensorrt")
def test_tensorrt_proper_is_refused_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(NacdeployError, match=r"builds for the GPU it runs on, and there is none.*--target trt-rtx"):
        build(NetworkWriter().model(), table("SM90"), builder="tensorrt")


@pytest.mark.usefixtures("as_tensorrt")
def test_tensorrt_proper_builds_for_the_gpu_present_and_notes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 7))
    capabilities, notes = trt._capabilities(trt_api.load(), table("SM87", "SM90"))
    assert capabilities == ("SM87",)
    assert "cannot build for SM90 here" in notes[0]

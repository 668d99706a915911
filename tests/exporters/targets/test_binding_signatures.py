"""What cannot run here is checked against the real wheels: every type, member, method and keyword that is used.

The wheels lie in a folder that is not on sys.path (`make test` puts them there). TensorRT's own libraries cannot be
installed without NVIDIA's index, so the bindings are given libraries of empty functions: enough to import them.
"""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SIGNATURES = Path(os.environ.get("NACDEPLOY_SIGNATURES", Path(sys.prefix) / "signatures"))
SOURCES = [ROOT / f"nacdeploy/exporters/targets/tensorrt/{name}.py" for name in ("api", "engine", "runner")]
CHECKER = Path(__file__).with_name("binding_signatures.py")

# Functions that run with one of the two builders only.
RTX_ONLY = ("_choose_capability", "_rtx_context")
TENSORRT_ONLY = ("_use_timing_cache", "_timing_cache")

EMPTY_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)

needs_wheels = pytest.mark.skipif(
    not SIGNATURES.is_dir() or shutil.which("gcc") is None, reason="needs gcc, and the wheels that make test installs"
)


def check(module: str, skipped: tuple[str, ...], sources: list[Path], **environment: str) -> dict[str, list[str]]:
    skips = [f"--skip={name}" for name in skipped]
    command = [sys.executable, str(CHECKER), module, *skips, *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stub_libraries(folder: Path, major: int) -> Path:
    """libnvinfer and its two companions, with the nine functions that the bindings look up."""
    source = folder / "empty.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in EMPTY_FUNCTIONS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        out = folder / f"lib{library}.so.{major}"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(out), str(source)], check=True)
    return folder


@needs_wheels
@pytest.mark.parametrize("major", [10, 11])
def test_everything_called_on_tensorrt_exists_in_its_bindings(major: int, tmp_path: Path) -> None:
    libraries = str(stub_libraries(tmp_path, major))
    wheel = str(SIGNATURES / f"tensorrt-{major}")
    found = check("tensorrt_bindings", RTX_ONLY, SOURCES, LD_LIBRARY_PATH=libraries, PYTHONPATH=wheel)
    assert found["version"].startswith(f"{major}.")
    assert found["problems"] == []
    expected = {
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
        "ITimingCache.serialize",
        "OnnxParser.get_error",
        "ParserError.node_operator",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_engine_inspector",
        "EngineInspector.get_engine_information",
        "IExecutionContext.execute_async_v3",
        "LayerInformationFormat.JSON",
        "ProfilingVerbosity.DETAILED",
    }
    assert expected <= set(found["checked"])


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has wheels for Linux x86-64 only")
def test_everything_called_on_tensorrt_rtx_exists_in_its_bindings() -> None:
    found = check("tensorrt_rtx", TENSORRT_ONLY, SOURCES)
    assert found["problems"] == []
    expected = {"IBuilderConfig.set_compute_capability", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE"}
    assert expected <= set(found["checked"])


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has wheels for Linux x86-64 only")
def test_checker_finds_what_the_bindings_do_not_have(tmp_path: Path) -> None:
    wrong = """
def build(trt: Trt, logger, config: IBuilderConfig):
    builder = trt.Builder(logger)
    network = builder.create_network(flag=1)
    config.set_falg(trt.BuilderFlag.INT7)
    builder.build_serialized_network(network, config, 3, 4)
    trt.Bilder(logger)
"""
    (tmp_path / "wrong.py").write_text(wrong)
    problems = " ".join(check("tensorrt_rtx", (), [tmp_path / "wrong.py"])["problems"])
    for name in ("create_network", "set_falg", "BuilderFlag.INT7", "build_serialized_network", "no Bilder"):
        assert name in problems


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}


@needs_wheels
def test_every_keyword_given_to_torch_tensorrt_exists_in_its_source() -> None:
    package = SIGNATURES / "torch-tensorrt" / "torch_tensorrt"
    compiler, front = functions(package / "dynamo/_compiler.py")["compile"], functions(package / "_compile.py")
    constructor = (package / "_Input.py").read_text()
    known = {
        "compile": {a.arg for f in (compiler, front["compile"]) for a in (*f.args.args, *f.args.kwonlyargs)},
        "save": {a.arg for a in (*front["save"].args.args, *front["save"].args.kwonlyargs)},
    }
    calls = [
        n
        for n in ast.walk(ast.parse((ROOT / "nacdeploy/exporters/targets/torch_trt/build.py").read_text()))
        if is_call(n)
    ]
    assert sorted(call.func.attr for call in calls) == ["Input", "compile", "save"]
    for call in calls:
        given = {keyword.arg for keyword in call.keywords}
        if call.func.attr == "Input":
            assert [name for name in given if f'"{name}"' not in constructor] == []
        else:
            assert given <= known[call.func.attr]


def is_call(node: ast.AST) -> bool:
    """Whether a node calls a function of torch_tensorrt."""
    called = node.func if isinstance(node, ast.Call) else None
    return (
        isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "torch_tensorrt"
    )


@needs_wheels
def test_quantize_operator_is_converted_with_the_arguments_that_are_given() -> None:
    package = SIGNATURES / "torch-tensorrt" / "torch_tensorrt"
    converters = (package / "dynamo/conversion/aten_ops_converters.py").read_text()
    assert "torch.ops.tensorrt.quantize_op.default" in converters
    assert "import modelopt.torch.quantization" in converters
    quantize = functions(package / "dynamo/conversion/impl/quantize.py")["quantize"]
    assert [a.arg for a in quantize.args.args][-4:] == ["input_tensor", "amax", "num_bits", "exponent_bits"]


def test_options_of_the_gpu_providers_are_those_of_their_libraries() -> None:
    import onnxruntime

    from nacdeploy.exporters.targets.ort import runner as onnx

    libraries = Path(inspect.getfile(onnxruntime)).parent / "capi"
    text = inspect.getsource(onnx._provider_options)
    options = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and "_" in str(n.value)}
    for name, prefix in (("cuda", ("enable_", "user_", "device_")), ("tensorrt", ("trt_", "user_", "device_"))):
        library = libraries / f"libonnxruntime_providers_{name}.so"
        if not library.is_file():
            pytest.skip("this onnxruntime has no GPU providers")
        content = library.read_bytes()
        wanted = [option for option in options if option.startswith(prefix)]
        assert len(wanted) >= 3
        assert [option for option in wanted if option.encode() not in content] == []

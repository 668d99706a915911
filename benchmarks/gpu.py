"""`make test-gpu`: what can only be tested and measured on an NVIDIA GPU, in one file to send back.

Runs `pytest -m gpu`, then builds, checks and times the engines of three networks for the GPU that is here: INT8 against
an FP16 engine, the device's own time and end to end, with and without CUDA graphs; P by a time measured there; and
exits in segments, an engine each.
"""

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import nacdeploy
from nacdeploy.base import latency, records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts import artifact, onnx_checks
from nacdeploy.exporters.onnx_graph.trace import INPUT, to_onnx
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.ort.runner import OnnxRunner, Provider
from nacdeploy.exporters.targets.tensorrt import build as trt
from nacdeploy.exporters.targets.tensorrt import engine as trt_build
from nacdeploy.exporters.targets.tensorrt import plan as trt_plan
from nacdeploy.exporters.targets.tensorrt.runner import TrtRunner
from nacdeploy.metrics import ACCURACY
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.testing.quantized import plain, quantized

OUT = Path("gpu-report.json")
NETWORKS = {"resnet34": 224, "mobilenet_v2": 224, "deit_tiny": 224}
BUILDERS = ("tensorrt", "tensorrt_rtx")
BATCHES = (1, 16)
OPSET = 20
BUDGET = """target = "trt"
model = "resnet34"
data = "digits"
[images]
input_size = 224
n_train = 256
n_validation = 64
n_test = 64
[train]
epochs = 1
[prune]
multiple = 32
[export]
compute_capabilities = ["{capability}"]
float_type = "fp16"
"""


def main() -> None:
    try:
        capability = gpu.require_gpu("make test-gpu")
    except NacdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    report = {
        "capability": capability,
        "python": platform.python_version(),
        "cpu": latency.machine(),
        "versions": artifact.versions() | versions("torch-tensorrt", "tensorrt-rtx-cu13", "nvidia-modelopt"),
        "gpus_before": states(),
        "tests": tests(),
        "networks": {name: attempt(network, name, side, capability) for name, side in NETWORKS.items()},
        "time_budget": attempt(time_budget, capability),
        "exits": attempt(exits, capability),
        "gpus_after": states(),
    }
    records.write_json(OUT, report)
    print(f"written: {OUT}; please send it back")
    sys.exit(report["tests"]["exit_code"])


def tests() -> dict[str, Any]:
    """The outcome of the tests that are marked gpu."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rA"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-2000:])
    return {"exit_code": done.returncode, "output": done.stdout[-20_000:]}


def network(name: str, side: int, capability: str) -> dict[str, Any]:
    """Engines, parity, latencies and layers of one network, for each builder that is here; ONNX Runtime's besides."""
    graphs = {
        "FP16": to_onnx(plain(name, side), OPSET).model,
        "INT8": to_onnx(quantized(name, side), OPSET).model,
        "INT8 2:4": to_onnx(quantized(name, side, two_four=True), OPSET).model,
    }
    found = {builder: attempt(engines, graphs, side, capability, builder) for builder in BUILDERS}
    for provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        found[provider] = attempt(onnx_runtime, graphs, side, provider)
    return found


def time_budget(capability: str) -> dict[str, Any]:
    """P(time=0.7)Q by a table of latencies that is measured under TensorRT here: asked for, expected and measured, ms.

    The network is hardly trained: a time does not depend on its values.
    """
    with TemporaryDirectory() as place:
        profile = Path(place) / "budget.toml"
        profile.write_text(BUDGET.format(capability=capability))
        start = time.monotonic()
        found = nacdeploy.transfer(strategy="P(time=0.7)Q", profile=profile, runs=Path(place) / "runs", wandb=False)
        state, _ = checkpoint.load(Path(found.checkpoint))
        timed = state.steps[0].decision.timed
        return {"seconds": time.monotonic() - start, "timed": records.to_data(timed)}


def exits(capability: str) -> list[dict[str, Any]]:
    """Rows of `bench` of one INT8 network with two exits: an engine for each segment, beside the FP32 original's.

    `latency.mean_ms` over test images stands beside `expected_ms`. Tensors cross cuts through the host's memory.
    """
    with TemporaryDirectory() as place:
        profile, runs = Path(place) / "exits.toml", Path(place) / "runs"
        profile.write_text(BUDGET.format(capability=capability) + 'exits = "segments"\n')
        found = nacdeploy.transfer(strategy="QE", profile=profile, runs=runs, wandb=False)
        folder = nacdeploy.export(source=found.folder, runs=runs, wandb=False)
        return [records.to_data(row) for row in nacdeploy.bench([folder]).rows]


def engines(graphs: dict[str, bytes], side: int, capability: str, builder: str) -> dict[str, Any]:
    """What one builder makes of the graphs of one network."""
    table = ExportTable(compute_capabilities=(capability,), max_batch=max(BATCHES))
    built, seconds = {}, {}
    for kind, graph in graphs.items():
        start, sparse = time.perf_counter(), "2:4" in kind
        built[kind] = trt.build_engines(graph, table, INPUT, (3, side, side), builder=builder, sparse=sparse, log=print)
        seconds[kind] = time.perf_counter() - start
    plans = {kind: engine.files[capability] for kind, engine in built.items()}
    return {
        "records": {kind: records.to_data(engine.records[capability]) for kind, engine in built.items()},
        "build_s": seconds,
        "bytes": {kind: len(plan) for kind, plan in plans.items()},
        "rebuilt": {kind: attempt(rebuilt, engine, capability) for kind, engine in built.items()},
        "parity": {kind: attempt(parity, plan, graphs[kind], side) for kind, plan in plans.items()},
        "latency": {
            f"batch {batch}, CUDA graph {'on' if graph else 'off'}": attempt(
                timed, partial(TrtRunner, cuda_graph=graph), plans, side, batch
            )
            for batch in BATCHES
            for graph in (False, True)
        },
        "layers": {kind: attempt(layers, plan, side) for kind, plan in plans.items()},
    }


def rebuilt(engine: trt.Engines, capability: str) -> Any:
    """Whether the same engine comes out of a second build."""
    cache = engine.timing_caches.get(capability, b"")
    again = trt_build.rebuild(engine.records[capability], engine.graph, cache)
    return records.to_data(trt_build.compare(capability, engine.files[capability], again))


def onnx_runtime(graphs: dict[str, bytes], side: int, provider: Provider) -> dict[str, Any]:
    """One of ONNX Runtime's GPU providers on the same graphs."""
    return {
        f"CUDA graph {'on' if graph else 'off'}": attempt(
            timed, partial(OnnxRunner, providers=provider, cuda_graph=graph), graphs, side, 1
        )
        for graph in (False, True)
    }


def timed(runner: Callable[[bytes], Any], models: dict[str, bytes], side: int, batch: int) -> Any:
    """All kinds in turns against FP16, and the GPU's state before and after."""
    before, x = states(), images(batch, side)
    subjects = {kind: runner(model).subject(x) for kind, model in models.items()}
    found = latency.compare(subjects, baseline="FP16", batch_size=batch, threads=1, n_rounds=30, round_ms=50)
    return {**records.to_data(found), "gpus_before": before, "gpus_after": states()}


def parity(plan: bytes, graph: bytes, side: int) -> Any:
    """An engine against ONNX Runtime on the CPU, on noise."""
    x = images(64, side)
    reference, answer = OnnxRunner(graph, optimization="basic").run(x)[0], TrtRunner(plan).run(x)[0]
    return records.to_data(onnx_checks.parity(reference, answer, "basic", ACCURACY))


def layers(plan: bytes, side: int) -> dict[str, Any]:
    """What the inspector says: the precision of each ONNX node that multiplies, and the sparse kernels picked."""
    runner = TrtRunner(plan)
    runner.run(images(1, side))
    text = runner.inspect()
    found = trt_plan.inspected(text)
    return {
        "precisions": trt_plan.precisions(found),
        "sparse": [layer.name for layer in found if layer.is_sparse],
        "n_reformats": sum(layer.is_reformat for layer in found),
        "inspector": text,
    }


def attempt(call: Any, *arguments: Any) -> Any:
    """The answer, or what went wrong as text: one failure does not cost the rest of the report."""
    try:
        return call(*arguments)
    except Exception as error:
        print(f"{call.__name__}: {error}", file=sys.stderr)
        return {"failed": f"{type(error).__name__}: {error}"}


def images(n: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3, side, side)).astype(np.float32)


def states() -> list[Any]:
    return [records.to_data(state) for state in gpu.states()]


def versions(*names: str) -> dict[str, str]:
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return {name: installed[name] for name in names if name in installed}


if __name__ == "__main__":
    main()

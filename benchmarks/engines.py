"""How long one TensorRT-RTX engine takes to build, ahead of time and without a GPU, by network and compute capability.

`python benchmarks/engines.py`. Random weights, w8a8, 32 px, the float rest in FP16. Building is all that is shown:
how fast an engine runs takes the GPU.
"""

from nacdeploy.base import latency
from nacdeploy.base.latency import Stopwatch
from nacdeploy.exporters.onnx_graph.trace import INPUT, to_onnx
from nacdeploy.exporters.targets.tensorrt import build as trt
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.testing.quantized import quantized

NETWORKS = ("resnet34", "mobilenet_v2", "deit_tiny")
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120")
SIDE = 32


def seconds(model: bytes, capability: str) -> float:
    """The time of one build."""
    watch = Stopwatch()
    table = ExportTable(compute_capabilities=(capability,))
    trt.build_engines(model, table, INPUT, (3, SIDE, SIDE), builder="tensorrt_rtx", log=lambda line: None)
    return watch.seconds()


def main() -> None:
    """Print one row per network."""
    print(f"{latency.machine()}; seconds of one build, {SIDE} px\n")
    print(f"| network | {' | '.join(CAPABILITIES)} |\n|---|{'---|' * len(CAPABILITIES)}")
    for name in NETWORKS:
        model = to_onnx(quantized(name, SIDE), 20).model
        found = [seconds(model, capability) for capability in CAPABILITIES]
        print(f"| {name} | {' | '.join(f'{each:.2f}' for each in found)} |")


if __name__ == "__main__":
    main()

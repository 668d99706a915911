"""What rounding to units of channels costs or wins: one network, equal ratios in units of 1, 8 and 16, in turns.

`python benchmarks/alignment.py [WIDTH]`. Untrained structures: accuracy is not at stake here.
"""

import sys
from functools import partial

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.follow import follow

RATIOS = (0.15, 0.3, 0.45)
UNITS = (1, 8, 16)


def states(width: int) -> dict[str, CompressionState]:
    """The FP32 network, and what P and PQ make of it by unit and ratio, pruned uniformly."""
    overrides = {"width": width, "images": {"n_validation": 20}, "settle": {"n_images": 64}}
    profile = profiles.override(profiles.load("demo"), overrides)
    task = tasks.make(profile.model, profile.data, profile)
    start = initial_state(plain_network(task, profile), task)
    found = {"FP32": start}
    for ratio in RATIOS:
        for word in ("P", "PQ"):
            for unit in UNITS:
                chain = word.replace("P", f"P(ratio={ratio},multiple={unit},scope=uniform)")
                name = f"{word} {ratio:g}, units of {unit}"
                found[name] = follow(Chain.parse(chain), start, task, profile).state
    return found


def main(width: int) -> None:
    """Print the table of one interleaved run."""
    found = states(width)
    image = found["FP32"].network.example_input().numpy()
    runners = {name: OnnxRunner(to_onnx(state.network, 20).model) for name, state in found.items()}
    calls = {name: partial(runner.run, image) for name, runner in runners.items()}
    compared = latency.compare(calls, baseline="FP32", batch_size=1, threads=1, n_rounds=30, round_ms=10)
    print(f"{latency.machine()}; ResNet8 width {width}, 16 px, batch 1, 1 thread\n")
    print("| chain, ratio | MMACs | p50 ms | faster than FP32 (95 %) | us per MMAC |\n|---|---|---|---|---|")
    for name, state in found.items():
        ratio, p50_ms, mmacs = compared.ratios[name], compared.latencies[name].p50_ms, state.metrics.cost.macs / 1e6
        interval = f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"
        print(f"| {name} | {mmacs:.2f} | {p50_ms:.3f} | {interval} | {1000 * p50_ms / mmacs:.1f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 48)

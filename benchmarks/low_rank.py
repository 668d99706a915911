"""make bench-low-rank: ResNet34 decomposed at half ranks: how long D takes, and its latency beside FP32's in ONNX
Runtime, both networks exported and timed in turns. Weights are the built-in initialisation's: no time depends on them.
"""

import tempfile
import time
from pathlib import Path

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency
from nacdeploy.exporters import bench
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.export import export
from nacdeploy.exporters.targets import parse
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.steps.advance import advance

FEW = {"n_train": 256, "n_validation": 64, "n_test": 64, "input_size": 32}
TABLES = {"images": FEW, "settle": {"n_images": 64}, "export": {"n_parity": 32, "float_type": "fp32"}}
CHAINS = ("D(ratio=0.5)", "D(rate=2)")  # EVBMF finds no rank in weights that were not trained


def main() -> None:
    profile = profiles.from_mapping({"name": "low-rank", "model": "resnet34", "data": "digits", **TABLES})
    task = tasks.make(profile.model, profile.data, profile)
    plain = initial_state(plain_network(task, profile), task)
    print(f"machine: {latency.machine()}; ResNet34, 32 x 32; batch 1, 1 thread")
    print("| chain | decomposition s | MACs left | parameters left |\n|---|---|---|---|")
    for text in CHAINS:
        (link,) = Chain.parse(text)
        operator = letters.make(link, profile)
        start = time.monotonic()
        operator.perform(plain.network, operator.decide(plain, task))
        seconds = time.monotonic() - start
        state = advance(plain, link, task, profile)
        now, was = state.metrics.cost, plain.metrics.cost
        print(f"| `{text}` | {seconds:.1f} | {now.macs / was.macs:.2f} | {now.n_parameters / was.n_parameters:.2f} |")
        if text == CHAINS[0]:
            half = state
    with tempfile.TemporaryDirectory() as folder:
        context = Context()
        target = parse("ort")
        paths = [export(s, task, profile, target, Path(folder) / str(i), context) for i, s in enumerate((plain, half))]
        fp32, row = bench.bench(paths[1:], paths[0], task.data, profile.bench).rows
    now, was, speed = row.latency.p50_ms, fp32.latency.p50_ms, row.speed
    print(f"latency FP32 {was:.2f} ms, `{CHAINS[0]}` {now:.2f} ms: {now / was:.2f} of it")
    print(f"{speed.value:.2f}x faster, 95 %: {speed.low:.2f} to {speed.high:.2f}")


if __name__ == "__main__":
    main()

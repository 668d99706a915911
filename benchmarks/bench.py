"""make bench: what is timed here. Start-up of the command line, and INT8 against FP32 across widths, in turns."""

import subprocess
import sys
from functools import partial

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.steps.follow import follow

STRUCTURE = ("P", "PPPP", "Q", "QPP", "QPPPP", "QPPPPP")


def startup() -> None:
    """`nacdeploy --help` against `import click`, interleaved."""
    calls = {
        "import click": partial(subprocess.run, [sys.executable, "-c", "import click"], check=True),
        "nacdeploy --help": partial(
            subprocess.run,
            [sys.executable, "-m", "nacdeploy.cli.main", "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
        ),
    }
    compared = latency.compare(calls, baseline="import click", batch_size=1, threads=1, n_rounds=9, round_ms=50)
    help_ms = compared.latencies["nacdeploy --help"].p50_ms
    print(f"nacdeploy --help: {help_ms:.0f} ms, {1 / compared.ratios['nacdeploy --help'].value:.2f}x of 'import click'")


def widths() -> None:
    """Latency of untrained structures: accuracy is not at stake here."""
    for width in (16, 32, 48):
        overrides = {"width": width, "images": {"n_validation": 20}, "settle": {"n_images": 64}}
        profile = profiles.override(profiles.load("demo"), overrides)
        task = tasks.make(profile.model, profile.data, profile)
        start = initial_state(plain_network(task, profile), task)
        states = {"FP32": start, **{w: follow(Chain.parse(w), start, task, profile).state for w in STRUCTURE}}
        image = task.example_input().numpy()
        runners = {name: OnnxRunner(to_onnx(s.network, profile.export.opset).model) for name, s in states.items()}
        calls = {name: partial(runner.run, image) for name, runner in runners.items()}
        compared = latency.compare(calls, baseline="FP32", batch_size=1, threads=1, n_rounds=30, round_ms=10)
        print(f"\nResNet8 width {width}, 16 px, batch 1, 1 thread")
        print("| chain | MMACs | p50 ms | faster (95 %) |\n|---|---|---|---|")
        for name, state in states.items():
            ratio, timed = compared.ratios[name], compared.latencies[name]
            interval = f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"
            print(f"| {name} | {state.metrics.cost.macs / 1e6:.2f} | {timed.p50_ms:.3f} | {interval} |")


if __name__ == "__main__":
    print(latency.machine())
    startup()
    widths()

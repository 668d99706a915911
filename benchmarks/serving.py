"""make bench-serving: an artifact behind a real Triton server, concurrent clients for a minute, beside its runner.

    python benchmarks/serving.py ARTIFACT [--seconds 60] [--clients 8] [--batch 1]

The artifact is served by Triton's Python backend on the CPU (`nacdeploy export --target triton`). Every answer is
compared with the runner's. The server's own statistics give the compute time of a batch; the runner's time is taken
at batches of the same mean size. The server comes with NVIDIA's nvidia-pytriton, which `make test` unpacks.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacdeploy.base import latency
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.exits import deployed
from nacdeploy.exporters.triton import repository
from nacdeploy.exporters.triton.configuration import Served

sys.path.append(str(Path(__file__).parent.parent / "tests"))
N_IMAGES = 256


@dataclass
class Count:
    """What the clients saw."""

    right: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("artifact", type=Path)
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--clients", type=int, default=8)
    asked.add_argument("--batch", type=int, default=1)
    given = asked.parse_args(arguments)
    from triton_server import serving

    manifest, _ = artifact.load(given.artifact)
    shape = tuple(each for each in manifest.inputs[0].shape[1:] if isinstance(each, int))
    x = np.random.default_rng(0).standard_normal((N_IMAGES, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (model, *_) = repository.write(given.artifact, work / "models", Served(), "net")
        with serving(work / "models", work) as server:
            count, stats = run(server.grpc, model, manifest, given, x)
    report(given, count, stats, x)


def run(url: str, model: str, manifest: Any, given: Any, x: NDArray[Any]) -> tuple[Count, Any]:
    """Ask the server from several clients for a time; return what they saw, and the server's statistics."""
    import tritonclient.grpc as over_grpc

    opened = deployed.load(given.artifact)
    expected = opened.run(x).outputs if opened.whole is None else opened.whole.run(x)[0]  # a whole graph has no gate
    count, lock, end = Count(), threading.Lock(), time.monotonic() + given.seconds
    own, input_name = manifest.outputs[0].name, manifest.inputs[0].name

    def client(place: int) -> None:
        draw = np.random.default_rng(place)
        with over_grpc.InferenceServerClient(url) as asks:
            while time.monotonic() < end:
                start = int(draw.integers(0, len(x) - given.batch + 1))
                rows = slice(start, start + given.batch)
                tensor = over_grpc.InferInput(input_name, list(x[rows].shape), "FP32")
                tensor.set_data_from_numpy(x[rows])
                began = time.perf_counter()
                try:
                    found = asks.infer(model, [tensor]).as_numpy(own)
                except Exception as error:
                    with lock:
                        count.errors.append(str(error)[:200])
                    continue
                ms = 1000 * (time.perf_counter() - began)
                is_right = np.allclose(found, expected[rows], rtol=1e-3, atol=1e-3)
                with lock:
                    count.ms.append(ms)
                    count.right, count.wrong = count.right + is_right, count.wrong + (not is_right)

    threads = [threading.Thread(target=client, args=(place,)) for place in range(given.clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with over_grpc.InferenceServerClient(url) as asks:
        stats = asks.get_inference_statistics(as_json=True)["model_stats"]
    return count, stats


def report(given: Any, count: Count, stats: Any, x: NDArray[Any]) -> None:
    """Print what was seen, and the compute time of the server's batches beside the runner's."""
    print(
        f"{count.right} right, {count.wrong} wrong answers, {len(count.errors)} errors {sorted(set(count.errors))[:2]}"
    )
    rate, ms = len(count.ms) * given.batch / given.seconds, np.array(count.ms or [0.0])
    tail = np.quantile(ms, 0.99)
    print(f"{rate:.0f} images/s from {given.clients} clients; p50 {np.median(ms):.2f} ms, p99 {tail:.2f} ms")
    opened = deployed.load(given.artifact)
    for each in stats:
        executions = int(each.get("execution_count", 0))
        if not executions:
            continue
        compute_ms = (
            int(each["inference_stats"]["compute_infer"]["ns"]) / 1e6 / int(each["inference_stats"]["success"]["count"])
        )
        size = int(each["inference_count"]) / executions
        print(f"{each['name']}: {size:.2f} images a batch, {compute_ms:.3f} ms compute as the server counts it")
        if each["name"] == "net":
            batch = x[: max(1, round(size))]
            times = [_ms(opened, batch) for _ in range(50)]
            print(f"runner: batch {len(batch)}, {np.median(times):.3f} ms")
    print(f"machine: {latency.machine()}")


def _ms(opened: Any, batch: NDArray[Any]) -> float:
    start = time.perf_counter()
    opened.run(batch)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()

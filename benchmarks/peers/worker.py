"""Runs the models of one environment on request: a JSON line in, a JSON line out.

It runs in any environment that has numpy and the runtime asked for, and imports nothing else.

{"do": "load", "name", "path", "runtime", "settings", "image"}   opens a model; image.npy is what it is called with
{"do": "turn", "name", "fastest"}   calls back to back, the first few unseen: {"ns"}, the median call or the fastest
{"do": "predict", "name", "images", "out"}   logits (N, K) of images.npy to out.npy
"""

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
BATCH_SIZE, N_UNSEEN, N_TIMED = 100, 3, 10


def open_onnxruntime(path: str, settings: dict[str, str]) -> Model:
    """A session on the CPU: one thread, all graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_openvino(path: str, settings: dict[str, str]) -> Model:
    """A model compiled for the CPU: one thread, one stream, hint LATENCY. Each shape is compiled for itself, since a
    dynamic batch costs OpenVINO time that the peer's user would not pay."""
    import openvino

    core, compiled = openvino.Core(), {}
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, **settings}

    def request_for(shape: tuple[int, ...]) -> "openvino.InferRequest":
        if shape not in compiled:
            model = core.read_model(path)
            model.reshape(list(shape))
            compiled[shape] = core.compile_model(model, "CPU", config).create_infer_request()
        return compiled[shape]

    def run(images: np.ndarray) -> np.ndarray:
        return next(iter(request_for(images.shape).infer(images, share_inputs=True).values()))

    return run


RUNTIMES = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def turn_ns(model: Model, image: np.ndarray, fastest: bool = False) -> int:
    """The median time of one call, or the fastest: back to back, as a user's loop runs them, once caches are warm after
    the wait."""
    times = []
    for _ in range(N_UNSEEN + N_TIMED):
        start = time.perf_counter_ns()
        model(image)
        times.append(time.perf_counter_ns() - start)
    return int((np.min if fastest else np.median)(times[N_UNSEEN:]))


def serve(line: str, models: dict[str, Model], images: dict[str, np.ndarray]) -> dict[str, object]:
    """The answer to one request."""
    request = json.loads(line)
    name = request["name"]
    if request["do"] == "load":
        models[name] = RUNTIMES[request["runtime"]](request["path"], request["settings"])
        images[name] = np.load(request["image"])
        return {}
    if request["do"] == "turn":
        return {"ns": turn_ns(models[name], images[name], request.get("fastest", False))}
    many = np.load(request["images"])
    batches = (many[start : start + BATCH_SIZE] for start in range(0, len(many), BATCH_SIZE))
    np.save(request["out"], np.concatenate([np.array(models[name](batch)) for batch in batches]))
    return {}


def main() -> None:
    """Answer until the other side closes; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    models: dict[str, Model] = {}
    images: dict[str, np.ndarray] = {}
    for line in sys.stdin:
        try:
            answer = serve(line, models, images)
        except Exception as error:  # whatever a runtime raises is the other side's to report
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

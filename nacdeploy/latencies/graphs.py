"""ONNX graphs of networks to be timed, each shape exported once, and the timer of them."""

from collections import OrderedDict
from functools import partial

from nacdeploy.base import records
from nacdeploy.exporters.onnx_graph.trace import Traced, lower, trace
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.ported import ported_maker
from nacdeploy.exporters.targets.timing import Timer, timer
from nacdeploy.latencies.setting import maker_here
from nacdeploy.network.network import Network, content
from nacdeploy.profile import Profile
from nacdeploy.strategies.state import edges
from nacdeploy.task import Task

_N_TRACES = 4
_SHORT_MS = 6.0


class Graphs:
    """ONNX graphs of networks. Torch's exporter, which takes seconds, runs once for all networks of the same shapes,
    quantized edges and exits: a trace holds no value that a time depends on."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._traces: OrderedDict[str, Traced] = OrderedDict()

    def model(self, network: Network) -> bytes:
        """Return the serialised graph of a network.

        Raises:
            NacdeployError: torch's exporter cannot export it.
        """
        shapes = {name: list(tensor.shape) for name, tensor in content(network).items()}
        exits = [head.node for head in network.heads.values()]
        key = records.sha256_data({"shapes": shapes, "edges": edges(network), "exits": exits})
        if key not in self._traces:
            self._traces[key] = trace(network, self._opset)
        self._traces.move_to_end(key)
        while len(self._traces) > _N_TRACES:
            self._traces.popitem(last=False)
        return lower(self._traces[key], network).model


def timer_of(task: Task, profile: Profile, n_rounds: int, fastest: bool = False) -> Timer:
    """Return a timer of graphs on the target, or in ONNX Runtime on the CPU if the target cannot be timed here.

    With `fastest` a turn counts by its fastest call, and is short.
    """
    short = profile.bench.model_copy(update={"round_ms": min(_SHORT_MS, profile.bench.round_ms)})
    table = short if fastest else profile.bench
    example = task.example_input()
    images = example.repeat(profile.bench.batch_sizes[0], *[1] * (example.dim() - 1)).numpy()
    make = maker_here(profile.target, profile) or partial(OnnxRunner, threads=profile.bench.threads)
    return timer(ported_maker(make, task.spec.ports), images, table, n_rounds, fastest)

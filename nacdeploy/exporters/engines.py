"""What a target builds from the checked graph: what it is told, and what an artifact holds of it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters import parity
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest
from nacdeploy.exporters.onnx_graph.trace import OUTPUT
from nacdeploy.exporters.targets.runtime import Built, Log, Runner, Source
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

Files = dict[str, bytes]


def source(graph: bytes, rows: Sequence[Lowering], network: Network, task: Task, profile: Profile, log: Log) -> Source:
    """What is built from: a graph, the network that simulates it, and who says whether what was built agrees."""
    agrees = partial(_agreement, network=network, task=task, table=profile.export)
    return Source(graph, rows, network, profile.export, profile.seed, agrees, log)


def added(manifest: Manifest, files: Files, built: Built) -> tuple[Manifest, Files]:
    """The manifest and the files with what was built."""
    notes = (*manifest.notes, *built.notes)
    manifest = replace(manifest, builder=built.builder, engines=built.engines, builds=built.builds, notes=notes)
    return manifest, {**files, **built.files}


def _agreement(what: str, runner: Runner, network: Network, task: Task, table: ExportTable) -> str:
    """How something that was built from the graph agrees with the torch model, in words.

    Raises:
        NacdeployError: less than the profile asks for.
    """
    images = task.data.validation.subset(torch.arange(min(table.n_parity, len(task.data.validation))))
    *exits, logits = evaluation.predict_exits(network, task.data, images)
    batches = [x.numpy() for x in evaluation.batches(task.data, images, table.max_batch)]
    answers = dict(zip(runner.output_names, parity.run_all(runner, batches), strict=True))
    outputs = [answers[name] for name in sorted(answers, key=lambda name: (name != OUTPUT, len(name), name))]
    found = parity.least([logits, *exits], outputs, what, task.metric)
    percent = f"{100 * found.agreement:.2f} % of {found.n_images} images"
    snr = "exact" if found.snr_db is None else f"{found.snr_db:.1f} dB"
    simulated = [logits, *exits]
    if parity.parts(simulated, outputs, found, table, task.metric) and not parity.only_rounds(
        network, task, images, simulated, outputs
    ):
        raise NacdeployError(
            f"{what}, whose float rest is {table.float_type}, agrees with the torch model on {percent} (needed "
            f"{100 * table.min_agreement:g} %), {snr} (needed {table.min_snr_db:g}): try export.float_type = 'fp32', "
            "or quantize.exclude"
        )
    return f"{what} agrees with the torch model on {percent}, {snr}"

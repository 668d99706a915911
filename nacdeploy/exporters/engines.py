"""The builds of a target from the checked graph: the source of a build, and the artifact with its result."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Say
from nacdeploy.exporters import parity
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest
from nacdeploy.exporters.onnx_graph.trace import OUTPUT
from nacdeploy.exporters.targets.ported import ported
from nacdeploy.exporters.targets.runtime import Built, Runner, Source
from nacdeploy.models.ports import ports_of
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

Files = dict[str, bytes]


def source(graph: bytes, rows: Sequence[Lowering], network: Network, task: Task, profile: Profile, log: Say) -> Source:
    """Return the source of a build: a graph, the network that simulates it, and a function that checks agreement."""
    agrees = partial(_agreement, network=network, task=task, table=profile.export)
    return Source(graph, rows, network, profile.export, profile.seed, agrees, log)


def added(manifest: Manifest, files: Files, built: Built) -> tuple[Manifest, Files]:
    """Return the manifest and the files with the build's result."""
    notes = (*manifest.notes, *built.notes)
    manifest = replace(manifest, builder=built.builder, engines=built.engines, builds=built.builds, notes=notes)
    return manifest, {**files, **built.files}


def _agreement(what: str, runner: Runner, network: Network, task: Task, table: ExportTable) -> str:
    """Say in words how a build of the graph agrees with the torch model.

    Raises:
        NacdeployError: the agreement is below the profile's bounds.
    """
    simulated = parity.Simulated.of(network, task, table)
    runner = ported(runner, ports_of(network.backbone))
    batches = [x.numpy() for x in evaluation.batches(task.data, simulated.images, table.max_batch)]
    answers = dict(zip(runner.output_names, parity.run_all(runner, batches), strict=True))
    outputs = [answers[name] for name in sorted(answers, key=lambda name: (name != OUTPUT, len(name), name))]
    found, is_apart = simulated.compared(outputs, what, table)
    percent = f"{100 * found.agreement:.2f} % of {found.n_images} images"
    snr = "exact" if found.snr_db is None else f"{found.snr_db:.1f} dB"
    if is_apart:
        raise NacdeployError(
            f"{what}, whose float rest is {table.float_type}, agrees with the torch model on {percent} (needed "
            f"{100 * table.min_agreement:g} %), {snr} (needed {table.min_snr_db:g}): try export.float_type = 'fp32', "
            "or quantize.exclude"
        )
    return f"{what} agrees with the torch model on {percent}, {snr}"

"""How results and progress look: tables on stdout, bars and lines on stderr; plain where there is no terminal."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

_MEMORY_S = 1800  # what the time left is estimated from: chains take from a second to minutes


@cache
def stderr() -> "Console":
    """The console of lines and bars; rich is imported when something is shown, so that --help stays quick."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class RichBar:
    """One bar with the time left, and a line below it."""

    def __init__(self, progress: "Progress", task: "TaskID", below: "Text") -> None:
        self._progress, self._task, self._below = progress, task, below

    def update(self, n_done: int, total: int, note: str = "") -> None:
        self._progress.update(self._task, completed=n_done, total=total)
        self._below.plain = note


class RichProgress:
    """Progress on stderr: lines, and bars that are gone when their job is done or nobody watches."""

    def say(self, line: str) -> None:
        stderr().print(line, soft_wrap=True, markup=False)

    @contextmanager
    def bar(self, title: str) -> Iterator[RichBar]:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.text import Text

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=stderr(), speed_estimate_period=_MEMORY_S)
        bar = RichBar(progress, progress.add_task(title, total=1), below := Text(no_wrap=True, overflow="ellipsis"))
        if not stderr().is_terminal:
            yield bar
            return
        with Live(Group(progress, below), console=stderr(), transient=True):
            yield bar


def print_json(record: Any) -> None:
    """One JSON document on stdout."""
    from nacdeploy import records

    plain = records.to_data(record) if hasattr(record, "__dataclass_fields__") else record
    click.echo(json.dumps(plain, indent=1))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on stdout, as wide as its content where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a pipe has no width: nothing is folded for it
        console.width = 200
    console.print(table)


def print_result(result: Any) -> None:
    """A result as a row of NAC's table, with the control row and where things lie."""
    scores, figures = result.scores, result.figures
    hours = f"{result.seconds / 3600:.3f}"
    rows = [
        ["FP32 baseline", _percent(scores.baseline), "", "1.00", "1.00", "1.00", "1.00", ""],
        [
            f"control: FP32, {scores.n_control_epochs} epochs more",
            _percent(scores.control),
            "",
            "1.00",
            "1.00",
            "1.00",
            "1.00",
            "",
        ],
        [
            result.chain or "(empty)",
            _percent(scores.compressed),
            f"{scores.drop_points:.2f}",
            f"{figures.nac_bitops_ratio:.2f}",
            f"{figures.nac_memory_ratio:.2f}",
            f"{figures.bitops_ratio:.2f}",
            f"{figures.bytes_ratio:.2f}",
            hours,
        ],
    ]
    title = f"{result.model} on {result.data} (test split, {scores.n_images} images)"
    columns = ["Trajectory", "Acc.", "Acc. loss", "NAC BitOpsCR", "NAC MemCR", "BitOps ratio", "bytes ratio", "hours"]
    print_table(title, columns, rows)
    for refusal in result.skipped:
        click.echo(f"skipped {refusal.link} at position {refusal.position}: {refusal.reason}")
    if result.n_evaluations:
        click.echo(f"{result.n_evaluations} chains evaluated, {result.n_trainings} trainings")
    if result.front:
        _print_front(result)
    click.echo(f"checkpoint: {result.checkpoint}")


def _print_front(result: Any) -> None:
    """The Pareto front of a search, counted and (where speed matters) timed in full, the answer marked."""
    rows = [
        [
            str(member.number),
            member.chain + (" *" if member.chain == result.chain else ""),
            _percent(member.figures.accuracy),
            f"{member.drop_points:.2f}",
            _speed_cell(member.figures),
            f"{member.figures.bitops_ratio:.2f}",
            f"{member.figures.bytes_ratio:.2f}",
        ]
        for member in result.front
    ]
    columns = ["", "chain", "acc. on validation", "loss", "faster (95 %)", "BitOps ratio", "bytes ratio"]
    print_table(f"Pareto front; --resume {result.folder} --pick N answers with another member", columns, rows)


def _speed_cell(figures: Any) -> str:
    if figures.speed_ratio is None:
        return ""
    between = "" if figures.speed_low is None else f" ({figures.speed_low:.2f}-{figures.speed_high:.2f})"
    return f"{figures.speed_ratio:.2f}x{between}"


def print_experiment(done: Any) -> None:
    """The jobs of an experiment, and the result of the best one."""
    names = list(dict.fromkeys(name for row in done.jobs for name in row.proposal))
    rows = [
        [
            f"{row.number}{' (best)' if row.number == done.best_job else ''}",
            *(f"{row.proposal.get(name, '')}" for name in names),
            "" if row.value is None else f"{row.value:.6g}",
            row.error or row.status,
        ]
        for row in done.jobs
    ]
    print_table(f"{done.name}: {done.compressor}", ["job", *names, "value", "status"], rows)
    if done.result is not None:
        print_result(done.result)
    elif done.best_folder:
        click.echo(f"model of job {done.best_job}: {done.best_folder}")


def print_bench(table: Any) -> None:
    """The rows of one bench run; the device's own times where it ran on a GPU."""
    on_gpu = any(row.device_latency for row in table.rows)
    columns = [
        "artifact",
        "chain",
        "batch",
        "acc. %",
        "KiB",
        "smaller",
        "p50 ms",
        "p90 ms",
        "images/s",
        "faster (95 %)",
        *(["CUDA graph", "device p50 ms", "device faster"] if on_gpu else []),
    ]
    rows = [
        [
            row.artifact,
            row.chain or "FP32",
            str(row.latency.batch_size),
            _percent(row.accuracy),
            f"{row.model_bytes / 1024:.0f}",
            f"{row.size_ratio:.2f}x",
            f"{row.latency.p50_ms:.3f}",
            f"{row.latency.p90_ms:.3f}",
            f"{row.latency.throughput_per_s:.0f}",
            _interval(row.speed),
            *(_device_cells(row) if on_gpu else []),
        ]
        for row in table.rows
    ]
    threads = table.rows[0].latency.threads
    print_table(f"{table.machine}; {threads} thread(s); {table.runtime}", columns, rows)
    for artifact, runtime in dict.fromkeys((r.artifact, r.runtime) for r in table.rows if r.runtime != table.runtime):
        click.echo(f"{artifact} runs in {runtime}")
    for note in dict.fromkeys(row.note for row in table.rows if row.note):
        click.echo(f"note: {note}")
    for when, states in (("before", table.gpus_before), ("after", table.gpus_after)):
        for gpu in states:
            click.echo(
                f"GPU {when}: {gpu.name}, driver {gpu.driver}, {gpu.power_state}, {gpu.temperature_c} C, "
                f"{gpu.sm_clock_mhz} MHz of {gpu.max_sm_clock_mhz}, {gpu.power_w} W of {gpu.power_limit_w}"
            )


def _device_cells(row: Any) -> list[str]:
    latency, speed = row.device_latency, row.device_speed
    graph = "on" if row.cuda_graph else "off"
    return [graph, f"{latency.p50_ms:.3f}" if latency else "", _interval(speed) if speed else ""]


def _interval(ratio: Any) -> str:
    return f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def print_previews(rows: Any) -> None:
    """A dry run, letter by letter."""
    columns = ["letter", "decision", "MACs", "BitOps", "KiB"]
    table = [
        [r.link, r.refused or r.explanation, f"{r.macs:,}", f"{r.bitops:,}", f"{r.memory_bits / 8192:.0f}"]
        for r in rows
    ]
    print_table("dry run: nothing is trained or written", columns, table)


def print_artifact(folder: Any, manifest: Any, rows: Any) -> None:
    """What became of each layer, and where the artifact lies."""
    table = [[row.layer, row.kind, row.asked, row.held, row.reason] for row in rows]
    print_table(f"{manifest.chain or 'FP32'} for {manifest.target}", ["layer", "kind", "asked", "held", "why"], table)
    if manifest.parity is not None:
        snr = "exact" if manifest.parity.snr_db is None else f"{manifest.parity.snr_db:.1f} dB"
        agreement = f"{100 * manifest.parity.agreement:.2f} % top-1 agreement"
        click.echo(f"parity with the torch model on {manifest.parity.n_images} validation images: {agreement}, {snr}")
    for capability, file in manifest.engines.items():
        click.echo(f"engine {capability}: {folder / file} (built with {manifest.builder})")
    for note in manifest.notes:
        click.echo(f"note: {note}")
    click.echo(f"artifact: {folder}")


def print_encoded(encoded: Any) -> None:
    """What each tensor weighs in the container, and the container beside zstd of the same tensors."""
    columns = ["tensor", "type", "shape", "method", "run bits", "bits per element", "bytes", "before"]
    rows = [
        [
            row.name,
            row.dtype,
            "x".join(map(str, row.shape)),
            row.method,
            str(row.run_bits or ""),
            f"{row.bits_per_element:.2f}",
            f"{row.n_bytes:,}",
            f"{row.n_bytes_before:,}",
        ]
        for row in encoded.rows
    ]
    print_table("", columns, rows)
    for line in encoded.ignored:
        click.echo(f"note: {line}")
    click.echo(
        f"{encoded.n_bytes_before:,} bytes of files in {encoded.n_bytes:,}; their tensors alone through zstd (level "
        f"{encoded.zstd_level}): {encoded.n_bytes_zstd:,}"
    )
    click.echo(f"container: {encoded.path}")


def print_verified(found: Any) -> None:
    """Hashes, then each engine against its second build."""
    click.echo(f"{found.artifact}: {found.n_files} files are as their hashes say")
    for engine in found.engines:
        click.echo(f"engine {engine.capability}, built again: {engine.said}")
    for engine in found.unbuilt:
        click.echo(f"engine {engine.capability}, not built again: {engine.why}")
    for said in found.repeats.values():
        click.echo(f"note: {said}")


def print_doctor(report: Any) -> None:
    """Components, conflicts and targets."""
    components = [
        [c.name, c.version or "missing", "yes" if c.required else "extra", c.purpose, "" if c.version else c.pip]
        for c in report.components
    ]
    print_table(
        f"Python {report.python}; {report.machine}", ["package", "version", "needed", "for", "add it"], components
    )
    for conflict in report.conflicts:
        click.echo(f"conflict: {conflict.problem}; mend it with: {' && '.join(conflict.pip)}")
    print_table("", ["target", "works", "why"], [[t.name, "yes" if t.works else "no", t.why] for t in report.targets])


def print_measured(measured: Any) -> None:
    """What the probes of this CPU found."""
    rows = [
        [t.model, t.signs, f"{t.p50_ms:.3f}", *(["chosen", str(e.weight_bits)] if t.signs == e.signs else ["", ""])]
        for e in measured.encodings
        for t in e.times
    ]
    columns = ["model, 1 thread", "activations", "p50 ms", "", "exact with weight bits"]
    print_table(f"INT8 encodings in ONNX Runtime on {measured.machine}", columns, rows)
    by_channels: dict[int, list[str]] = {}
    for t in measured.channels.times:
        by_channels.setdefault(t.channels, [str(t.channels)]).extend([f"{t.p50_ms:.3f}", f"{t.over_expected:.2f}x"])
    columns = ["channels", "FP32 p50 ms", "over expected", "INT8 p50 ms", "over expected"]
    print_table("3x3 convolutions, 14 px, against counts in multiples of 16", columns, [*by_channels.values()])
    click.echo(f"channels pay in multiples of {measured.channels.float32} in FP32, {measured.channels.int8} in INT8")


def print_analysis(found: Any) -> None:
    """Layers with what they cost and the strongest setting that each bears alone, and where the tables lie."""
    techniques = list(found.suggested)
    columns = ["layer", "kind", "shape", "MACs", "MACs %", "parameters", "coupled to", *techniques]
    rows = [
        [
            row.layer,
            row.kind,
            row.shape,
            f"{row.macs:,}",
            _percent1(row.macs_fraction),
            f"{row.n_parameters:,}",
            row.dependency_root if row.dependency_root != row.layer else "",
            *(found.suggested[technique].get(row.layer, "") for technique in techniques),
        ]
        for row in found.layers
    ]
    title = f"baseline {_percent(found.baseline_accuracy)} % on validation; the strongest setting that each bears alone"
    print_table(title, columns, rows)
    click.echo(f"analysis: {found.folder}")


def print_explanation(explained: Any) -> None:
    """The layers of an artifact, worst first, and the totals."""
    columns = ["layer", "MACs %", "time %", "us", "float us", "asked", "held", "channels", "waste %", "zeros %"]
    columns += [*(["engine"] if any(row.engine for row in explained.rows) else []), "kernel", "around it", "why"]
    rows = [_explained(row, "engine" in columns) for row in explained.rows]
    between = explained.between
    times = [_percent1(explained.between_fraction), *_times(between)]
    rows.append(["(between layers)", "", *times, *[""] * (len(columns) - 7), ", ".join(_around(between)), ""])
    title = f"{explained.artifact}: {explained.chain or 'FP32'} for {explained.target}; {explained.machine}"
    print_table(f"{title}; {explained.threads} thread(s); {explained.runtime}", columns, rows)
    for line in _totals(explained):
        click.echo(line)


def _explained(row: Any, with_engine: bool) -> list[str]:
    fit, facts = row.alignment, row.facts
    channels = "" if fit.n_outputs is None else f"{fit.n_inputs or fit.n_outputs}->{fit.n_outputs} /{fit.multiple}"
    return [
        row.layer,
        _percent1(row.macs_fraction),
        _percent1(row.time_fraction),
        *_times(facts),
        row.asked or "-",
        facts.held or "-",
        channels,
        f"{100 * fit.wasted_fraction:.0f}" if channels else "",
        "" if row.zero_fraction is None else f"{100 * row.zero_fraction:.0f}{' 2:4' if row.is_two_four else ''}",
        *([row.engine or "unknown"] if with_engine else []),
        " + ".join((*facts.kernels, *facts.fused)),
        ", ".join(_around(facts)),
        row.reason.text,
    ]


def _times(facts: Any) -> list[str]:
    """The time of a layer and that of its float twin, in microseconds."""
    return [f"{1000 * t:.1f}" if t is not None else "" for t in (facts.time_ms, facts.twin_ms)]


def _around(facts: Any) -> tuple[str, ...]:
    return (*facts.reformats, *facts.apart)


def _totals(explained: Any) -> list[str]:
    int8, in_file = (_percent1(f) for f in (explained.int8_macs_fraction, explained.int8_macs_in_file_fraction))
    lines = [f"INT8 kernels do {int8} % of the multiplications; the file holds {in_file} % of them in INT8"]
    if explained.speed is None:
        lines.append(f"one call takes {explained.call_ms:.3f} ms; there is no Q/DQ pair in the file, so no float twin")
    else:
        ratio = explained.speed
        interval = f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"
        lines.append(
            f"one call takes {explained.call_ms:.3f} ms, of the float twin {explained.twin_call_ms:.3f} ms: {interval}"
        )
    found = explained.sparsity
    known = "" if found.n_picked is None else f", {found.n_picked} with a sparse kernel, {found.n_gained} faster by it"
    lines.append(f"2:4 weights: {found.n_eligible} of {len(explained.rows)} layers{known} ({found.note})")
    reasons = "; ".join(f"{cause} ({_percent1(share)} % of the time)" for cause, share in explained.top_reasons)
    lines.append(f"time without gain: {reasons or 'none'}")
    return [*lines, *(f"note: {note}" for note in explained.notes)]


def _percent1(fraction: float) -> str:
    return f"{100 * fraction:.1f}"

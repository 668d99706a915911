"""docs/coverage.md: a summary by library and column, then every network of the list, the untried ones too."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.foreign import listing, rows
from benchmarks.foreign.listing import Entry, Listing
from benchmarks.foreign.rows import COLUMNS, FAULTS, RIGHT, WRONG, Row
from nacdeploy.base import latency, records
from nacdeploy.testing.right import EXACT_DB

FILE = Path(__file__).parent.parent.parent / "docs" / "coverage.md"
SMALL = 30_000_000
Rows = Mapping[tuple[str, str], Row]
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "tensorrt-rtx-cu13",
    "torch-pruning",
)
_SHOWN = {  # the figures of each column, with their units
    "captured": ("db",),
    "P": ("ratio", "db"),
    "Q": ("claimed", "layers", "db", "reference_db"),
    "S": ("claimed",),
    "D": ("db",),
    "E": ("exits",),
    "export": ("fp32_db", "db"),
    "trt": ("db",),
    "PQ": ("db",),
}
# The words of the goals: a network counts where all of these are right.
GOALS = {
    "torchvision": (("P, Q, `PQ` + export + build", ("P", "Q", "PQ", "export", "trt"), 95),),
    "timm": (("Q + export", ("Q", "export"), 90), ("P", ("P",), 85)),
}
_MEANING = """\
Right, for every column, is measured against the *original float network* with random, non-degenerate weights, on
smooth random images: **captured** the graph answers as the network does in batches of 1, 2 and 7, 100 dB; **P** by
half, before settling, as the original with the removed channels set to zero, 60 dB (the share of channels that was
reached stands beside it); **Q** at 8 bits 20 dB, or, where ONNX Runtime's `quantize_static` (per channel, U8S8) stays
below 20 dB too, at most 1 dB less than it, with every layer that is claimed in INT8 found in the file's nodes; **S**
the zeros claimed are in the weights that run and in the ONNX file, and the order of channels changes no answer; **D**
at full rank 60 dB; **E** the network's own end unchanged, bit for bit; **QPF** runs through one epoch; **export** the
FP32 file in ONNX Runtime at 80 dB and Q's file by Q's rule, in batches of 1 and 3; **trt** TensorRT-RTX builds Q for
SM89; **PQ** Q by its rule after P, in torch and in the file, and built. Refused, warned, timed out or not captured is
not right. *wrong* is an answer that is not right without a word; *traceback* counts what the package's own net
caught, too.

Looser than a user's export: the simulation and the file may differ down to 10 dB and in any number of classes (20 dB
and 99 % by default, which random networks near 20 dB miss by chance), and nothing is timed. The engines of **trt** are
built and not run: the dB beside it is that of their ONNX file, unoptimised. Norms over channels (LayerNorm, GroupNorm)
count the channels that stay; `db_norms_of_all` in the rows is the other reading."""


def write(folder: Path, out: Path = FILE) -> None:
    """The report of the rows in a folder."""
    records.write_text(out, text(listing.read(), rows.read(folder), latency.machine()))


def text(listed: Listing, found: Rows, machine: str) -> str:
    """The report as Markdown."""
    known = {entry.model for entry in listed.networks}
    found = {key: row for key, row in found.items() if key[0] in known}
    parts = [
        "# Coverage: what is right on networks from elsewhere",
        "Written by `python benchmarks/coverage.py --report`; run by `make bench-coverage`.",
        _origin(listed, found, machine),
        _MEANING,
        "## Summary",
        *(_summary(library, [e for e in listed.networks if e.library == library], found) for library in GOALS),
        "## Every network",
        "✓ is right, and figures stand beside it. px is the side of the images, s the seconds of all columns, "
        "MiB the largest peak of any.",
        _networks(listed.networks, found),
        "## What was not right, and why",
        _reasons(listed.networks, found),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(listed: Listing, found: Rows, machine: str) -> str:
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            continue
    commits = sorted({row.commit for row in found.values() if row.commit})
    grids = sorted({row.grid for row in found.values() if row.grid})
    made = ", ".join(f"{name} {version}" for name, version in listed.versions.items())
    where = f"Machine: {machine}, grid {', '.join(grids) or 'unknown'}; {', '.join(versions)}."
    when = f"Commits: {', '.join(commits) or 'none'}; what is right under one is not run again under a later one."
    return f"{where} {when} The list is of {made}."


def _summary(library: str, entries: Sequence[Entry], found: Rows) -> str:
    """The table of one library: right of tried by column, faults, and the goals."""
    run = [entry for entry in entries if any((entry.model, column) in found for column in COLUMNS)]
    title = f"### {library}: {len(entries)} networks in the list, {len(run)} run, {len(entries) - len(run)} untried"
    head = ("column", "run", "right", "refused", "timeout, memory", "silently wrong", "tracebacks")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for column in COLUMNS:
        tried = [found[entry.model, column] for entry in entries if (entry.model, column) in found]
        lines.append(f"| {column} | {len(tried)} | {' | '.join(_counts(tried))} |")
    goals = [
        f"- {words}: {_share(run, columns, found)} right; goal {goal} %" for words, columns, goal in GOALS[library]
    ]
    return "\n".join([title, "", *lines, "", *goals, _first_trace(run, found)])


def _counts(tried: Sequence[Row]) -> Iterator[str]:
    outcomes = [row.outcome for row in tried]
    n_right = outcomes.count(RIGHT)
    yield f"{n_right} ({100 * n_right / len(tried):.0f} %)" if tried else "-"
    yield str(outcomes.count(rows.REFUSED))
    yield str(outcomes.count(rows.TIMEOUT) + outcomes.count(rows.MEMORY))
    yield str(outcomes.count(WRONG))
    yield str(sum(outcome in FAULTS for outcome in outcomes))


def _share(run: Iterable[Entry], columns: Sequence[str], found: Rows) -> str:
    """How many of the networks that were tried in all `columns` are right in all of them."""
    tried = [entry for entry in run if all((entry.model, column) in found for column in columns)]
    n_right = sum(all(found[entry.model, column].outcome == RIGHT for column in columns) for entry in tried)
    return f"{n_right}/{len(tried)}" + (f" ({100 * n_right / len(tried):.0f} %)" if tried else "")


def _first_trace(run: Iterable[Entry], found: Rows) -> str:
    """What P took at most of the networks that it is to be quick with; its column holds more than the first trace."""
    small = (found.get((entry.model, "P")) for entry in run if entry.n_parameters < SMALL)
    tried = [row for row in small if row is not None]
    seconds, peak = (max((getattr(row, key) for row in tried), default=0.0) for key in ("seconds", "peak_mib"))
    return (
        f"- P of {len(tried)} networks under {SMALL / 1e6:.0f} M parameters: at most {seconds:.0f} s and "
        f"{peak:.0f} MiB for the whole column; goal 20 s and 3072 MiB"
    )


def _networks(entries: Iterable[Entry], found: Rows) -> str:
    head = ["network", "px", "M parameters", *COLUMNS, "s", "MiB"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in entries:
        own = [found.get((entry.model, column)) for column in COLUMNS]
        cells = [entry.model, str(entry.size or "-"), f"{entry.n_parameters / 1e6:.1f}", *map(_cell, own)]
        tried = [row for row in own if row is not None]
        seconds, peak = sum(row.seconds for row in tried), max((row.peak_mib for row in tried), default=0.0)
        cells += [f"{seconds:.0f}", f"{peak:.0f}"] if tried else ["-", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "untried"
    shown = [_figure(key, row.figures[key]) for key in _SHOWN.get(row.column, ()) if key in row.figures]
    mark = "✓" if row.outcome == RIGHT else "traceback" if row.outcome in FAULTS else row.outcome
    return " ".join([mark, *shown])


def _figure(key: str, value: float) -> str:
    if key.endswith("db"):
        what = "exact" if value == EXACT_DB else "not finite" if value == -EXACT_DB else f"{value:.0f} dB"
        return f"({what} of quantize_static)" if key == "reference_db" else what
    words = {"ratio": f"{100 * value:.0f} %", "layers": f"of {value:.0f}", "exits": f"{value:.0f} exits"}
    return words.get(key, f"{value:.0f}")


def _reasons(entries: Iterable[Entry], found: Rows) -> str:
    """One line for each cell that is not right."""
    own = (found.get((entry.model, column)) for entry in entries for column in COLUMNS)
    lines = [
        f"- {row.model} {row.column}: {row.outcome} after {row.seconds:.0f} s: {_escaped(row.reason)}"
        for row in own
        if row is not None and row.outcome != RIGHT
    ]
    return "\n".join(lines) or "Nothing."


def _escaped(reason: str) -> str:
    """A reason as Markdown, without the file of this machine that an unexpected error names."""
    return reason.partition("; the traceback is in ")[0].replace("|", "\\|").replace("<", "\\<")

"""Encoding a checkpoint or an artifact into one file."""

from dataclasses import dataclass
from pathlib import Path

import zstandard

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.progress import Progress, default
from nacdeploy.coding import container, files, rule_files
from nacdeploy.coding.codec import ITEM_BYTES, Rule
from nacdeploy.coding.container import Cut, Entry, Header
from nacdeploy.coding.sizes import FIXED_POINT, PLAIN
from nacdeploy.results.outcome import CHECKPOINT
from nacdeploy.strategies.operators.code.settings import CodeTable
from nacdeploy.strategies.steps import checkpoint

_ZSTD_LEVEL = 19
_LABELS, _SHARING = "/labels", "sharing."


@dataclass(frozen=True)
class TensorRow:
    """One coded tensor: its bytes in the file and what they are of those it had."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    method: str
    run_bits: int
    n_bytes: int
    bits_per_element: float
    n_bytes_before: int


@dataclass(frozen=True)
class Encoded:
    """The weight of a container: its own bytes, of the files in it, and of the same tensors through zstd."""

    path: str
    n_bytes: int
    n_bytes_before: int
    n_bytes_zstd: int
    zstd_level: int
    rows: tuple[TensorRow, ...]
    ignored: tuple[str, ...] = ()


def encode(
    source: Path | str, out: Path | str, rules: Path | str | None = None, progress: Progress | None = None
) -> Encoded:
    """Write a checkpoint folder (or the one of a result), an artifact folder or one file into a container.

    A tensor that C shared is coded as the checkpoint's profile says (`code.codes`, `code.run_bits`). A tensor that
    matches a rule of the file `rules` is coded by that rule. Every other tensor gets its smallest coding.

        >>> import nacdeploy
        >>> encoded = nacdeploy.encode("runs/transfer-QEF-1", "model.nac")
        >>> encoded.n_bytes < encoded.n_bytes_before
        True

    Raises:
        UsageError: `source` is not there, or `rules` is no rule file.
        NacdeployError: a tensor cannot be coded as asked, or `out` cannot be written.
    """
    source, out, progress = Path(source), Path(out), progress or default()
    if not source.exists():
        raise UsageError(f"{source} does not exist; give a checkpoint folder, an artifact folder or a file")
    if checkpoint.is_checkpoint(source / CHECKPOINT):
        source = source / CHECKPOINT
    if out.is_dir():
        raise NacdeployError(f"{out} is a folder; name the file to write, such as {out / 'model.nac'}")
    cuts = files.cut(source)
    found = rule_files.read(Path(rules)) if rules is not None else rule_files.RuleFile(())
    names = [tensor.name for each in cuts for _, tensor in each.tensors]
    asked = {**_of_profile(source, cuts), **_of_rules(found, names)}
    progress.say(f"coding {len(names)} tensors of {len(cuts)} files")
    header = container.write(out, cuts, asked)
    return Encoded(
        path=str(out),
        n_bytes=out.stat().st_size,
        n_bytes_before=sum(len(each.data) for each in cuts),
        n_bytes_zstd=_zstd_bytes(cuts),
        zstd_level=_ZSTD_LEVEL,
        rows=tuple(_rows(header)),
        ignored=_ignored(found, names),
    )


def _of_profile(source: Path, cuts: list[Cut]) -> dict[str, Rule]:
    """Return what the profile of a checkpoint says of the labels that C made."""
    if not checkpoint.is_checkpoint(source):
        return {}
    table = checkpoint.read_record(source).settings().of(CodeTable)
    codes: str | None = None if table.codes == "smallest" else table.codes
    if codes is None and table.run_bits is None:
        return {}
    names = [tensor.name for each in cuts for _, tensor in each.tensors]
    codes = PLAIN if codes == FIXED_POINT else codes
    return {name: Rule(codes, table.run_bits) for name in names if _is_labels(name)}


def _of_rules(found: rule_files.RuleFile, names: list[str]) -> dict[str, Rule]:
    """Return what the coding rules say, of the labels in place of a weight that is shared; fixed-point codes of those
    are their plain indices."""
    asked = {}
    for name in names:
        line = found.first("coding", name, _parameter(name))
        if line is not None:
            is_index = _is_labels(name) and line.value.codes == FIXED_POINT
            asked[name] = Rule(PLAIN, line.value.run_bits) if is_index else line.value
    return asked


def _is_labels(name: str) -> bool:
    return name.startswith(_SHARING) and name.endswith(_LABELS)


def _parameter(name: str) -> str:
    """Return the name that a tensor of ours has in the user's network: `conv1.weight` for
    `sharing.conv1/weight/labels`, `backbone.conv1.weight`, and `layers.conv1.weight_q` of a graph."""
    if _is_labels(name):
        return name.removeprefix(_SHARING).removesuffix(_LABELS).replace("/", ".")
    return name.removeprefix("backbone.").removeprefix("layers.").removesuffix("_q")


def _ignored(found: rule_files.RuleFile, names: list[str]) -> tuple[str, ...]:
    used = {line.number for name in names if (line := found.first("coding", name, _parameter(name))) is not None}
    unused = [
        f"{found.where}, line {line.number}: '{line.pattern.pattern}' "
        + ("is the first match of no tensor" if line.kind == "coding" else f"is a {line.kind} rule, and codes nothing")
        + ": ignored"
        for line in found.lines
        if line.number not in used
    ]
    return (*found.problems, *unused)


def _zstd_bytes(cuts: list[Cut]) -> int:
    """Return the tensors of all files, their bytes one after the other, through zstd."""
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    return len(compressor.compress(b"".join(tensor.data for each in cuts for _, tensor in each.tensors)))


def _rows(header: Header) -> list[TensorRow]:
    return [_row(file.path, entry) for file in header.files for entry in file.tensors]


def _row(file: str, entry: Entry) -> TensorRow:
    n_before = entry.n_elements * ITEM_BYTES.get(entry.dtype, 1)
    bits = 8 * entry.n_bytes / max(entry.n_elements, 1)
    run_bits = entry.details.get("run_bits", 0)
    shape, method = entry.shape, entry.method
    return TensorRow(file, entry.name, entry.dtype, shape, method, run_bits, entry.n_bytes, bits, n_before)

"""Why a layer is or is not faster than its float twin, in plain words, from the file and from measurements."""

from dataclasses import dataclass

from nacdeploy.exporters.targets.ort.layer_facts import LayerFacts
from nacdeploy.network.attachments.fake_quant import Rule

# A gain below this is none: medians of two runs differ by as much.
GAIN = 1.1
# Fewer channels than this do not fill the kernels' registers.
NARROW = 16
_MUCH_REFORMAT, _MUCH_WASTE = 0.2, 0.05
_PAYS = "INT8 pays"


@dataclass(frozen=True)
class Alignment:
    """Channels against the multiple that pays: `wasted_fraction` of a block padded to it holds nothing.

    An input side of fewer channels than the multiple is read unblocked and does not count.
    """

    n_inputs: int | None
    n_outputs: int | None
    multiple: int
    wasted_fraction: float

    @property
    def sentence(self) -> str:
        """The worse side, such as "unaligned: 44 of 48 output channels used"; "" where little is wasted."""
        if self.wasted_fraction < _MUCH_WASTE:
            return ""
        n, side = max(self._sides(), key=lambda item: _padded(item[0], self.multiple) / item[0])
        return f"unaligned: {n} of {_padded(n, self.multiple)} {side} channels used"

    def _sides(self) -> list[tuple[int, str]]:
        return _counting_sides(self.n_inputs, self.n_outputs, self.multiple)


@dataclass(frozen=True)
class Reason:
    """`cause` is the same for all layers of one fate and can be added up; `text` has the numbers of this one."""

    cause: str
    text: str

    @property
    def is_gain(self) -> bool:
        return self.cause == _PAYS


def alignment(n_inputs: int | None, n_outputs: int | None, multiple: int, *, is_depthwise: bool = False) -> Alignment:
    """Channels in blocks of `multiple`; of a depthwise convolution one side counts."""
    sides = _counting_sides(None if is_depthwise else n_inputs, n_outputs, multiple)
    used = 1.0
    for n, _ in sides:
        used *= n / _padded(n, multiple)
    return Alignment(None if is_depthwise else n_inputs, n_outputs, multiple, 1 - used)


def why(
    facts: LayerFacts, kind: str, asked: str, in_file: str, lowered: str, rule: Rule | None, fit: Alignment
) -> Reason:
    """Return the reason for one layer.

    `asked`, `in_file` and `lowered` are the columns asked, held and reason of its lowering row ("" where it has none);
    `rule` is that of the chain's last Q, None without one.
    """
    if kind == "recurrent" and rule is not None:
        lowered = lowered or "a recurrent layer is one operator, which Q does not cover"
    reason = _int8(facts, kind, fit) if facts.held == "int8" else _float(facts, asked, in_file, lowered, rule, fit)
    clauses = [reason.text]
    if not reason.is_gain and fit.sentence and fit.sentence != reason.text.partition(": ")[2]:
        clauses.append(fit.sentence)
    return Reason(reason.cause, "; ".join(clauses))


def _int8(facts: LayerFacts, kind: str, fit: Alignment) -> Reason:
    ratio = facts.twin_ratio
    if ratio is None or facts.twin_ms is None:
        return Reason("too short to time", "INT8, too short to time")
    if ratio >= GAIN:
        return Reason(_PAYS, f"INT8, {ratio:.1f}x faster than its float twin")
    measured = f"{1 / ratio:.1f}x slower than its float twin" if ratio < 1 / GAIN else "as slow as its float twin"
    kernel_ms = facts.time_ms - facts.reformat_ms
    if kernel_ms * GAIN <= facts.twin_ms and facts.reformat_ms > 0:
        eaten = "takes longer than it saves" if ratio < 1 else "takes most of what it saves"
        text = f"quantise/dequantise around it {eaten} ({_us(facts.reformat_ms)} of {_us(facts.time_ms)})"
        return Reason("INT8, but conversions eat the gain", f"INT8, but {text}")
    cause, text = _slow_kernel(kind, fit, measured)
    return Reason(f"INT8, but {cause}", f"INT8, but {text}{_conversions(facts)}")


def _slow_kernel(kind: str, fit: Alignment, measured: str) -> tuple[str, str]:
    if kind == "depthwise conv":
        return "depthwise", f"depthwise: no faster kernel here ({measured})"
    if min(fit.n_inputs or NARROW, fit.n_outputs or NARROW) < NARROW:
        return "narrow", f"fewer than {NARROW} channels: {measured}"
    if kind == "product":
        return "a product of activations", f"a product of two activations: {measured}"
    return "its kernel is no faster", f"{measured}: the kernel is no faster at this size"


def _float(facts: LayerFacts, asked: str, in_file: str, lowered: str, rule: Rule | None, fit: Alignment) -> Reason:
    if not facts.kernels:
        return Reason("fused into another node", "the built graph has no node of its own for it")
    if in_file == "int8":
        kernels = ", ".join(facts.kernels)
        text = f"INT8 in the file, but the runtime dequantises and runs {kernels} in float"
        return Reason("INT8 in the file, float at run time", text + _conversions(facts))
    cause = _why_float(facts.layer, asked, lowered, rule, fit)
    return Reason(f"float: {cause}", f"float: {cause}{_conversions(facts)}")


def _why_float(layer: str, asked: str, lowered: str, rule: Rule | None, fit: Alignment) -> str:
    if rule is None:
        return "the chain has no Q"
    if lowered:
        return lowered
    if any(layer == entry or layer.startswith(f"{entry}.") for entry in rule.exclude):
        return "excluded (quantize.exclude, min_snr_db or max_drop)"
    if min(fit.n_inputs or fit.n_outputs or rule.min_channels, fit.n_outputs or rule.min_channels) < rule.min_channels:
        return f"fewer than {rule.min_channels} channels"
    return "left so by the chain" if asked else "Q does not cover it"


def _conversions(facts: LayerFacts) -> str:
    """Describe the time that a float layer spends on its INT8 neighbours, if it is large."""
    if facts.time_ms <= 0 or facts.reformat_ms < _MUCH_REFORMAT * facts.time_ms:
        return ""
    return f"; {_us(facts.reformat_ms)} of its {_us(facts.time_ms)} convert between formats"


def _counting_sides(n_inputs: int | None, n_outputs: int | None, multiple: int) -> list[tuple[int, str]]:
    sides = [(n_outputs, "output")]
    if n_inputs is not None and n_inputs >= multiple:
        sides.append((n_inputs, "input"))
    return [(n, side) for n, side in sides if n]


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _us(time_ms: float) -> str:
    return f"{1000 * time_ms:.0f} us"

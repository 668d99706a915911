"""One tensor as bytes and back, exact to the bit: NaN payloads, negative zeros and types that numpy lacks included.

A tensor is a vector of bit patterns. A few distinct patterns become codes of a codebook. Otherwise the bytes are stored
and compressed by zstd, plain or as planes of like bytes, whichever is smaller.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.outside import doors
from nacdeploy.coding import run_lengths as runs
from nacdeploy.coding import sizes
from nacdeploy.coding.distinct import Codes, distinct
from nacdeploy.coding.fixed_point import FixedPoint
from nacdeploy.coding.sizes import FIXED_POINT, HUFFMAN, LENGTH_BITS, PLAIN, Layout
from nacdeploy.coding.symbols import HuffmanCode, huffman_code, huffman_decode, huffman_encode, index_bits, pack, unpack

RAW, ZSTD, PLANES, CONSTANT, LOOKUP = "raw", "zstd", "planes", "constant", "lookup"
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_LEVEL = 9


@dataclass(frozen=True)
class Tensor:
    """A tensor as its bytes, in the byte order of the machine that wrote it (little-endian).

    `dtype` is a name of safetensors.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def patterns(self) -> NDArray[np.unsignedinteger]:
        """The elements' bit patterns (n,), or the bytes if an element is not a whole number of bytes."""
        n_bytes = ITEM_BYTES.get(self.dtype, 1)
        return np.frombuffer(self.data, np.dtype(f"<u{n_bytes}" if len(self.data) % n_bytes == 0 else "u1"))


@dataclass(frozen=True)
class Rule:
    """The coding that a tensor is asked to have.

    Attributes:
        codes: one of the three kinds of codes; None for the smallest of all.
        run_bits: the width of zero runs, 0 for no runs, None for the best width.
        fixed: the numbers of `fixed_point`.
    """

    codes: str | None = None
    run_bits: int | None = None
    fixed: FixedPoint | None = None


@dataclass(frozen=True)
class Coded:
    """A coded tensor: the method with its parameters for decoding, and the parts in the order of `sizes`."""

    method: str
    details: dict[str, Any] = field(default_factory=dict)
    parts: tuple[bytes, ...] = ()

    @property
    def n_bytes(self) -> int:
        return sum(map(len, self.parts))

    @property
    def crc32(self) -> int:
        """The checksum of all parts."""
        return zlib.crc32(b"".join(self.parts))


def encode(tensor: Tensor, rule: Rule = Rule(), like: Mapping[str, Codes] | None = None) -> tuple[Coded, Codes | None]:
    """Return the smallest form of a tensor under `rule`, and the tensor's codes if it has few distinct values.

    `like` are the codes of earlier tensors: if this tensor is a function of an earlier one (a mask of its weight), only
    the function is stored.

    Raises:
        NacdeployError: `rule` asks for codes that this tensor does not have.
    """
    codes = distinct(tensor.patterns)
    if rule.codes == FIXED_POINT:
        return _fixed(tensor, rule), codes
    if codes is None:
        if rule.codes is not None:
            raise NacdeployError(
                f"'{tensor.name}' cannot be coded by {rule.codes}: it has too many distinct values; share its weights "
                "first (C), or code it without a rule"
            )
        return _stored(tensor), None
    if len(codes.book) <= 1:
        return Coded(CONSTANT, {}, (codes.book.tobytes(),)), codes
    found = [_coded(codes, rule)]
    if rule.codes is None:
        found += [_stored(tensor), *_looked_up(codes, like or {})]
    return min(found, key=lambda each: each.n_bytes), codes


def decode(coded: Coded, tensor: Tensor, like: Mapping[str, NDArray[np.integer]]) -> bytes:
    """Return the bytes of a coded tensor.

    `tensor` gives name, type and shape; `like` holds the codes that the coded tensor may refer to.

    Raises:
        NacdeployError, ValueError: the parts do not make the tensor.
    """
    n = prod(tensor.shape)
    kind = np.dtype(f"<u{ITEM_BYTES.get(tensor.dtype, 1)}")
    if coded.method in (RAW, ZSTD, PLANES):
        return _unstored(coded, tensor.name, coded.details["n_bytes"])
    book = np.frombuffer(coded.parts[0], np.dtype(f"<u{coded.details.get('item_bytes', kind.itemsize)}"))
    if coded.method == CONSTANT:
        if len(book) != min(n, 1):
            raise ValueError(f"{len(book)} values of a constant")
        return np.repeat(book, n).tobytes()
    if coded.method == FIXED_POINT:
        return FixedPoint.of(coded.details).patterns(decode_codes(coded), tensor.dtype)
    codes = like[coded.details["of"]] if coded.method == LOOKUP else decode_codes(coded)
    if len(codes) and int(codes.max()) >= len(book):
        raise ValueError(f"code {int(codes.max())} of a book of {len(book)}")
    return book[codes].tobytes()


def decode_codes(coded: Coded) -> NDArray[np.integer]:
    """Return the codes (n,) of a tensor that was coded by Huffman, plain or fixed-point codes."""
    _, lengths, values, run_lengths, run_values = coded.parts
    about = coded.details
    codes = _read(coded.method, values, lengths, about["n_values"], about["width"])
    if not about["run_bits"]:
        return codes
    symbols = _read(about["runs"], run_values, run_lengths, about["n_runs"], about["run_bits"])
    placed, at = np.zeros(about["n"], np.uint16), runs.places(symbols, about["run_bits"])
    if len(at) != len(codes) or (len(at) and int(at[-1]) >= len(placed)):
        raise ValueError(f"{len(at)} places for {len(codes)} codes among {len(placed)}")
    placed[at] = codes + about["shift"]
    return placed


def _coded(codes: Codes, rule: Rule) -> Coded:
    found = sizes.histogram(codes.codes, len(codes.book), codes.zero)
    ways = (HUFFMAN, PLAIN) if rule.codes is None else (rule.codes,)
    layout = sizes.best(found, ways, rule.run_bits)
    # the code of zero is the first code; with runs it is never written
    shift = 1 if layout.run_bits else 0
    return _laid_out(codes, layout, codes.book.tobytes(), len(codes.book) - shift, shift)


def _laid_out(codes: Codes, layout: Layout, book: bytes, n_symbols: int, shift: int) -> Coded:
    """Return the parts in order: codebook, lengths of the value codes, values (less `shift`), lengths of the run codes,
    runs."""
    values = codes.codes
    run_symbols = np.zeros(0, np.uint16)
    if layout.run_bits:
        present = values != 0
        values, run_symbols = values[present] - np.uint16(shift), runs.run_symbols(runs.gaps(present), layout.run_bits)
    width = index_bits(n_symbols)
    details = {
        "n": len(codes.codes),
        "n_values": len(values),
        "width": width,
        "shift": shift,
        "item_bytes": codes.book.itemsize,
        "run_bits": layout.run_bits,
        "runs": layout.runs,
        "n_runs": len(run_symbols),
    }
    value_parts = _written(layout.codes, values, n_symbols, width)
    run_parts = _written(layout.runs, run_symbols, 2**layout.run_bits, layout.run_bits)
    return Coded(layout.codes, details, (book, *value_parts, *run_parts))


def _written(codes: str, values: NDArray[np.integer], n_symbols: int, width: int) -> tuple[bytes, bytes]:
    """Return the lengths of the code, and the values in that code."""
    if codes != HUFFMAN or not len(values):
        return b"", pack(values, width)
    code = huffman_code(np.bincount(values, minlength=n_symbols))
    return pack(np.array(code.lengths), LENGTH_BITS), huffman_encode(values, code)


def _read(codes: str, data: bytes, lengths: bytes, n: int, width: int) -> NDArray[np.integer]:
    if codes != HUFFMAN or not n:
        return unpack(data, width, n)
    n_symbols = min(len(lengths) * 8 // LENGTH_BITS, 2**width)
    return huffman_decode(data, HuffmanCode(tuple(unpack(lengths, LENGTH_BITS, n_symbols).tolist())), n)


def _fixed(tensor: Tensor, rule: Rule) -> Coded:
    fixed = rule.fixed or FixedPoint.fitting(tensor.name, tensor.dtype, tensor.patterns)
    codes = fixed.codes(tensor.name, tensor.dtype, tensor.patterns)
    found = sizes.histogram(codes.codes, len(codes.book), codes.zero)
    layout = sizes.best(found, (PLAIN,), rule.run_bits)
    layout = Layout(FIXED_POINT, layout.run_bits, layout.runs, fixed.bits)
    coded = _laid_out(codes, layout, b"", 2**fixed.bits, 0)
    return Coded(FIXED_POINT, {**coded.details, **fixed.details}, coded.parts)


def _looked_up(codes: Codes, like: Mapping[str, Codes]) -> Sequence[Coded]:
    """Return this tensor as a function of an earlier tensor's codes, or nothing if it is no such function."""
    for name, other in like.items():
        if len(other.codes) == len(codes.codes) and (table := _function(other, codes)) is not None:
            return [Coded(LOOKUP, {"of": name, "item_bytes": codes.book.itemsize}, (codes.book[table].tobytes(),))]
    return []


def _function(of: Codes, codes: Codes) -> NDArray[np.integer] | None:
    """Return the code that stands beside each code of `of`, or None if some code stands beside several."""
    table = np.zeros(len(of.book), codes.codes.dtype)
    sample = slice(0, 4096)
    table[of.codes[sample]] = codes.codes[sample]
    if not np.array_equal(table[of.codes[sample]], codes.codes[sample]):
        return None
    table[of.codes] = codes.codes
    return table if np.array_equal(table[of.codes], codes.codes) else None


def _stored(tensor: Tensor) -> Coded:
    """Return the bytes as they are, through zstd, or through zstd with the first bytes of all elements together, then
    the second bytes, and so on."""
    data, n_bytes = tensor.data, tensor.patterns.itemsize
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    about = {"n_bytes": len(data)}
    found = [Coded(RAW, about, (data,)), Coded(ZSTD, about, (compressor.compress(data),))]
    if n_bytes > 1:
        planes = np.frombuffer(data, np.uint8).reshape(-1, n_bytes).T.tobytes()
        found.append(Coded(PLANES, {**about, "item_bytes": n_bytes}, (compressor.compress(planes),)))
    return min(found, key=lambda each: each.n_bytes)


def _unstored(coded: Coded, name: str, n_bytes: int) -> bytes:
    (data,) = coded.parts
    if coded.method != RAW:
        try:
            stream = zstandard.ZstdDecompressor().stream_reader(data)
            data = doors.unpacked(stream, len(data), f"'{name}'", n_bytes)
        except zstandard.ZstdError as error:
            raise NacdeployError(f"'{name}' is damaged ({error})") from error
    if len(data) != n_bytes or n_bytes % coded.details.get("item_bytes", 1):
        raise ValueError(f"{len(data)} bytes, where {n_bytes} are said")
    if coded.method == PLANES:
        data = np.frombuffer(data, np.uint8).reshape(coded.details["item_bytes"], -1).T.tobytes()
    return data

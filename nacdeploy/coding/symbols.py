"""Symbols to bits and back: canonical Huffman codes (bitarray, in C) and indices of a fixed width (numpy)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode, canonical_huffman
from numpy.typing import NDArray

from nacdeploy.base.errors import NacdeployError

MAX_LENGTH = 24
_CHUNK = 1 << 20


@dataclass(frozen=True)
class HuffmanCode:
    """A canonical Huffman code: the code length of each symbol 0, 1, ... (0: it has none) says everything, since codes
    of one length are consecutive numbers in the order of their symbols (RFC 1951, section 3.2.2)."""

    lengths: tuple[int, ...]

    @property
    def symbols(self) -> list[int]:
        """The symbols in the order of their codes."""
        return sorted((s for s, length in enumerate(self.lengths) if length), key=lambda s: (self.lengths[s], s))

    @property
    def n_of_length(self) -> list[int]:
        """How many codes there are of each length, from 0 on."""
        return [0, *np.bincount(self.lengths, minlength=1)[1:].tolist()]

    def n_bits(self, counts: NDArray[np.int64]) -> int:
        """The bits of a text in which symbol s stands counts[s] times."""
        return int((counts * np.array(self.lengths)).sum())


def huffman_code(counts: NDArray[np.int64]) -> HuffmanCode:
    """The code for symbols 0, 1, ... that stand `counts` times; a symbol that never does has none.

    Codes longer than `MAX_LENGTH` are avoided by halving the counts, as bzip2 does, which costs next to nothing.
    """
    while True:
        codes, n_of_length, _ = canonical_huffman({int(s): int(counts[s]) for s in np.flatnonzero(counts)})
        if len(n_of_length) - 1 <= MAX_LENGTH:
            return HuffmanCode(tuple(len(codes.get(symbol, ())) for symbol in range(len(counts))))
        counts = np.where(counts > 0, (counts + 1) // 2, 0)


def huffman_encode(symbols: NDArray[np.integer], code: HuffmanCode) -> bytes:
    """The codes of `symbols` (n,), one after the other, the last byte filled with zeros."""
    codes, bits = _codes(code), bitarray(endian="big")
    for start in range(0, len(symbols), _CHUNK):
        bits.encode(codes, symbols[start : start + _CHUNK].tolist())
    return bits.tobytes()


def huffman_decode(data: bytes, code: HuffmanCode, n: int) -> NDArray[np.uint16]:
    """The first `n` symbols of a text.

    Raises:
        NacdeployError: the data ends before, or holds what is no code.
    """
    bits = bitarray(endian="big", buffer=data)
    kind = np.uint8 if len(code.lengths) <= 256 else np.uint16
    try:
        return np.fromiter(canonical_decode(bits, code.n_of_length, code.symbols), kind, n)
    except (ValueError, TypeError) as error:
        raise NacdeployError(f"the Huffman codes are damaged ({error})") from error


def _codes(code: HuffmanCode) -> dict[int, bitarray]:
    codes, value, previous = {}, 0, 0
    for symbol in code.symbols:
        length = code.lengths[symbol]
        value <<= length - previous
        codes[symbol] = bitarray(format(value, f"0{length}b"))
        value, previous = value + 1, length
    return codes


def index_bits(n_values: int) -> int:
    """The width of a plain index among `n_values`: ceil(log2 n), 0 for a single one."""
    return max(n_values - 1, 0).bit_length()


def pack(values: NDArray[np.integer], width: int) -> bytes:
    """Non-negative integers (n,) below 2^width, each in `width` bits, the most significant first."""
    parts = [_bits_of(part, width) for part in _chunks(values)]
    return np.packbits(np.concatenate(parts)).tobytes() if parts and width else b""


def unpack(data: bytes, width: int, n: int) -> NDArray[np.uint32]:
    """The inverse of `pack`: (n,).

    Raises:
        NacdeployError: the data is too short.
    """
    if len(data) * 8 < n * width:
        raise NacdeployError(f"{len(data)} bytes hold less than {n} indices of {width} bits")
    if width == 0:
        return np.zeros(n, np.uint32)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=n * width).reshape(n, width)
    octets = np.packbits(np.pad(bits, ((0, 0), (-width % 8, 0))) if width % 8 else bits, axis=1)
    values = np.zeros(n, np.uint32)
    for octet in octets.T:
        values = (values << np.uint32(8)) | octet
    return values


def _chunks(values: NDArray[np.integer]) -> Sequence[NDArray[np.integer]]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]


def _bits_of(values: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint32)
    return ((values.astype(np.uint32)[:, None] >> shifts) & np.uint32(1)).astype(np.uint8).ravel()

"""WebDataset shards: plain tar files whose members `KEY.jpg` and `KEY.cls` are one sample (Aizman et al., 2019).

A shard is indexed once by its headers and then read by position, so that nothing is unpacked and batches may be
shuffled. Members are data: only regular files count, of an image's, a class's or a JSON's suffix, and no path in their
names is followed.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.data.pictures import suffixes as image_suffixes
from nacdeploy.data.samples import Sample, splits_of
from nacdeploy.data.sets import Splits
from nacdeploy.data.sources.split_folders import SYNONYMS
from nacdeploy.profile.tables.training import DataTable

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 100_000
_JSON_KEYS = ("label", "cls", "class")


@dataclass(frozen=True)
class Member:
    """One member of a shard: its bytes lie at `offset`."""

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.name[:200]}"

    def read_bytes(self) -> bytes:
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass
class _Group:
    """The members of one sample, by suffix."""

    image: Member | None = None
    label: Member | None = None
    others: list[str] = field(default_factory=list)


def read(argument: str | None, table: DataTable) -> Splits:
    """Read shards by a pattern with braces and wildcards, `data/{train,val}-{000..009}.tar`, or all of a folder.

    A shard belongs to the split that a word of its name says, or its folder's name, else to train; missing splits are
    taken from train by seed. The label is the member `.cls`, or `label` of `.json`; shards without any are unlabelled.

    Raises:
        UsageError: no such shard, one that is no plain tar, or a sample without an image.
    """
    by_split: dict[str, list[Sample]] = {}
    for shard in _shards(argument):
        by_split.setdefault(_split(shard), []).extend(_samples(shard))
    return splits_of(by_split, f"{argument}", table)


def has_labels(argument: str) -> bool:
    """Tell whether the first sample of the shards has a label."""
    first = next(_samples(_shards(argument)[0]), None)
    return first is None or first.label is not None


def _shards(argument: str | None) -> list[Path]:
    if not argument:
        raise UsageError("data set 'wds' needs shards: wds:PATTERN, such as wds:data/train-{000..009}.tar")
    place = Path(argument).expanduser()
    found = (
        sorted(place.glob("*.tar")) if place.is_dir() else [p for text in expanded(str(place)) for p in _files(text)]
    )
    missing = next((path for path in found if not path.is_file()), None)
    if missing is not None or not found:
        raise UsageError(
            f"there is no shard {missing or argument}; give tar files, such as wds:data/train-{{000..009}}.tar"
        )
    return found


def _files(text: str) -> list[Path]:
    if not any(sign in text for sign in "*?["):
        return [Path(text)]
    path = Path(text)
    return sorted(path.parent.glob(path.name))


def expanded(pattern: str) -> list[str]:
    """Return the names that a pattern with braces stands for, as a shell does: `{a,b}`, `{000..009}`, one in another.

    >>> expanded("{train,val}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    names = [pattern]
    while any(_BRACES.search(name) for name in names):
        names = [made for name in names for made in _once(name, pattern)]
        if len(names) > _MOST_SHARDS:
            raise UsageError(f"'{pattern[:200]}' stands for {len(names)} shards; at most {_MOST_SHARDS} are read")
    return list(dict.fromkeys(names))


def _once(name: str, pattern: str) -> list[str]:
    """Return the names with the first innermost braces expanded."""
    found = _BRACES.search(name)
    if found is None:
        return [name]
    return [name[: found.start()] + choice + name[found.end() :] for choice in _choices(found[1], pattern)]


def _choices(inside: str, pattern: str) -> list[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        return inside.split(",")
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= _MOST_SHARDS:
        raise UsageError(f"'{pattern[:200]}' has the range {inside[:50]}; it rises, over at most {_MOST_SHARDS} shards")
    width = len(found[1]) if len(found[1]) == len(found[2]) or found[1].startswith("0") else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def _split(shard: Path) -> str:
    """Return the split of a shard: by a word of its name, or by its folder, whose name is then nothing else."""
    words = {*re.findall(r"[a-z]+", shard.stem.lower())}
    folder = {shard.absolute().parent.name.lower()}
    found = [split for said in (words, folder) for split, names in SYNONYMS.items() if said & {*names}]
    return found[0] if found else "training"


def _samples(shard: Path) -> Iterator[Sample]:
    groups: dict[str, _Group] = {}
    for member in _members(shard):
        folder, _, base = member.name.rpartition("/")
        key, _, suffix = base.partition(".")
        _add(groups.setdefault(f"{folder}/{key}", _Group()), suffix.lower(), member)
    for key, group in groups.items():
        if group.image is None:
            kinds = ", ".join(group.others[:5]) or "a label alone"
            raise UsageError(f"{shard}: sample '{key.lstrip('/')[:100]}' holds no image ({kinds})")
        yield Sample(group.image, None if group.label is None else _label(group.label))


def _add(group: _Group, suffix: str, member: Member) -> None:
    if f".{suffix.rpartition('.')[2]}" in image_suffixes():
        if group.image is not None:
            raise UsageError(
                f"{member.shard}: a sample has two images, {group.image.name[:100]} and {member.name[:100]}"
            )
        group.image = member
    elif suffix == "cls" or (suffix == "json" and group.label is None):
        group.label = member
    else:
        group.others.append(suffix[:20])


def _members(shard: Path) -> Iterator[Member]:
    n_bytes = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            while (found := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
                if not found.isreg() or found.sparse is not None:
                    continue
                if found.offset_data + found.size > n_bytes:
                    raise UsageError(f"{shard} ends within its member {found.name[:100]}: it is cut off; copy it again")
                yield Member(shard, found.name, found.offset_data, found.size)
            _check_end(shard, archive.offset, n_bytes)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UsageError(
            f"{shard} is no plain tar file ({error}); one that is cut off is to be copied again, and a packed one "
            "(.tar.gz) to be unpacked"
        ) from error


def _check_end(shard: Path, offset: int, n_bytes: int) -> None:
    """Check that a shard ends where its members do: tarfile takes a damaged header for the end."""
    with shard.open("rb") as file:
        file.seek(offset)
        rest = file.read(tarfile.BLOCKSIZE)
    if any(rest) or (n_bytes - offset) % tarfile.BLOCKSIZE:
        raise UsageError(f"{shard} is cut off or damaged at byte {offset}; copy it again")


def _label(member: Member) -> str | None:
    if member.size > 1024 * doors.limits().text_kib:
        raise doors.above(str(member), f"has {member.size} bytes", "text_kib")
    content = member.read_bytes()
    if member.name.lower().endswith(".cls"):
        return content.decode("utf-8", "replace").strip()
    data: Any = doors.json_of(content, str(member))
    known = [data[key] for key in _JSON_KEYS if key in data] if isinstance(data, dict) else []
    return str(known[0]) if known and isinstance(known[0], int | str) else None

"""Decoding a container: the files that were encoded, byte for byte."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.progress import Progress, default
from nacdeploy.coding import container


@dataclass(frozen=True)
class Decoded:
    """Where files were restored, and how many."""

    path: str
    files: tuple[str, ...]
    n_bytes: int


def decode(path: Path | str, out: Path | str, progress: Progress | None = None) -> Decoded:
    """Restore the files of a container into a new folder, byte for byte, all of them or none.

        >>> import nacdeploy
        >>> encoded = nacdeploy.encode("runs/export-ort-1", "artifact.nac")
        >>> decoded = nacdeploy.decode("artifact.nac", "restored")
        >>> "manifest.json" in decoded.files
        True

    Raises:
        NacdeployError: the file is no container or a damaged one, or the folder `out` is not empty.
    """
    path, out, progress = Path(path), Path(out), progress or default()
    with container.Reader(path) as reader, records.new_directory(out) as folder:
        entries = reader.header.files
        for entry in entries:
            place = folder / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(reader.file(entry))
    progress.say(f"{len(entries)} files restored")
    return Decoded(str(out), tuple(e.path for e in entries), sum(e.n_bytes for e in entries))

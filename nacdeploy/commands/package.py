"""Packaging an artifact: one tar to ship, the same bytes from every copy."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Progress, default
from nacdeploy.commands.verify import checked
from nacdeploy.exporters.artifacts import tar


@dataclass(frozen=True)
class Packaged:
    """The tar: its place, its size and hash, the number of its files, and what of the folder is not in it."""

    path: str
    n_bytes: int
    sha256: str
    n_files: int
    left_out: tuple[str, ...] = ()


def package(artifact: Path | str, out: Path | str | None = None, progress: Progress | None = None) -> Packaged:
    """Write an artifact into one tar, whole or not at all; two copies of an artifact give the same bytes.

    Without `out` the tar lies beside the artifact, as `ARTIFACT.tar`. Every file is checked first, as `verify` does
    it. Files that the manifest does not name have no hash and are left out.

        >>> import nacdeploy
        >>> packaged = nacdeploy.package("runs/export-ort-1", "artifact.tar")
        >>> packaged.path, packaged.left_out
        ('artifact.tar', ())

    Raises:
        UsageError: `artifact` is no artifact.
        NacdeployError: a file is missing or damaged, or `out` exists or cannot be written.
    """
    folder, progress = Path(artifact), progress or default()
    manifest = checked(folder)
    place = Path(out) if out is not None else folder.absolute().with_name(f"{folder.absolute().name}.tar")
    if place.exists() or place.is_symlink():
        raise NacdeployError(f"{place} exists already; choose another --out or remove it")
    more = tar.left_out(folder, manifest)
    progress.say(f"packing {len(tar.names(manifest))} files, which are as their hashes say")
    records.write_bytes(place, tar.parts(folder, manifest))
    digest = records.sha256_file(place)
    return Packaged(str(place), place.stat().st_size, digest, len(tar.names(manifest)), more)

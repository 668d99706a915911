"""How nacdeploy bears what happens to it: kills, other people's files, and machines that run out of something.

    make bench-reliability                          # the whole campaign; goes on where it was stopped
    .venv/bin/python benchmarks/reliability.py --scale 0.1 --only kills hostile

Every command runs in a process of its own, forked from this one, so that it starts at once and may be killed. Rows lie
in runs/reliability.jsonl; a row that is there is not run again. The table at the end counts what must not happen.

Two counters run beside every case. Outside: everything around the folder that a command or a file may write to is
listed before and after (names, sizes, times), with the user's home and the temporary folder. Run: the hostile pickles,
models, modules and scripts leave a mark when a line of them is executed.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
ROWS = Path("runs/reliability.jsonl")
MIB = 2**20
# What a hostile file may cost above a valid one.
MOST_S, MOST_MIB = 5.0, 500
SEARCH = ("search", "--out", "out", "--budget", "6")
COMMANDS: dict[str, tuple[str, ...]] = {
    "search": SEARCH,
    "transfer": ("transfer", "--strategy", "QPE", "--out", "out"),
    "finetune": ("finetune", "--from", "runs/search-1", "--epochs", "2", "--out", "out"),
    "export": ("export", "--from", "runs/search-1", "--target", "ort", "--out", "out"),
    "encode": ("encode", "runs/search-1", "--out", "out.nac"),
    "decode": ("decode", "model.nac", "--out", "out"),
    "train": ("train", "--out", "out", "--epochs", "2", "--seed", "7"),
    "compress": ("compress", "experiment.json", "--out", "out"),
}


@dataclass(frozen=True)
class Row:
    """One case: its part and name, and what went wrong ("" where nothing did)."""

    part: str
    case: str
    wrong: str
    seconds: float
    mib: float = 0.0
    outside: int = 0
    executed: int = 0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: killed), what it left on stderr, its time and peak memory above
    that of this process."""

    code: int
    err: str
    seconds: float
    mib: float


def forked(
    arguments: tuple[object, ...],
    where: Path,
    *,
    kill_s: float | None = None,
    before: Callable[[], object] = lambda: None,
) -> Ended:
    """`nacdeploy ARGUMENTS` in a folder, killed after `kill_s`."""
    start = time.perf_counter()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(arguments, where, write, before)
    os.close(write)
    if kill_s is not None:
        time.sleep(kill_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    mib = max(0.0, used.ru_maxrss / 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    code = os.waitstatus_to_exitcode(status)
    with os.fdopen(read, errors="replace") as file:
        err = file.read()
    return Ended(code, err, time.perf_counter() - start, mib)


def _child(arguments: tuple[object, ...], where: Path, err: int, before: Callable[[], object]) -> None:
    """What a fork does; it never returns."""
    from nacdeploy.cli.main import main

    code = 70
    try:
        os.chdir(where)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["nacdeploy", *map(str, arguments)]
        before()
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def in_a_line(ended: Ended) -> str:
    """What is wrong with how a command failed, or ended well."""
    if ended.code == 0:
        return ""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    if "Traceback" in ended.err:
        return f"traceback: {lines[-1]}"
    if ended.code not in (1, 2) or not lines or not lines[-1].startswith("error: "):
        return f"exit {ended.code}: {lines[-1] if lines else 'nothing said'}"
    return f"unexpected: {lines[-1]}" if "unexpected:" in lines[-1] else ""


def worlds(root: Path) -> Path:
    """A folder in which search and encode have run, on networks of seconds."""
    from command_line import lay_out

    place = root / "ready"
    place.mkdir(parents=True)
    lay_out(place)
    (place / "experiment.json").write_text(json.dumps(EXPERIMENT))
    for command in (("search",), ("encode", "runs/search-1", "--out", "model.nac")):
        ended = forked(command, place)
        assert ended.code == 0, ended.err
    return place


EXPERIMENT = {
    "name": "e",
    "compression": {
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [{"sparsity": 0.3, "op_types": ["Conv2d"]}],
    },
}


@contextlib.contextmanager
def copied(ready: Path, prepare: Callable[[Path], object] = lambda place: None) -> Iterator[Path]:
    """A copy of the folder, for one case, with neighbours that nothing may touch."""
    with tempfile.TemporaryDirectory(dir=ready.parent, prefix="case-") as folder:
        (Path(folder) / "neighbour").mkdir()
        (Path(folder) / "neighbour/file").write_text("theirs")
        place = Path(shutil.copytree(ready, Path(folder) / "w"))
        prepare(place)
        before = listed(Path(folder), but=place)
        yield place
        OUTSIDE.extend(changed_of(before, listed(Path(folder), but=place)))


OUTSIDE: list[str] = []  # what the case under way wrote outside its folder
CANARY = "NACDEPLOY_CANARY"  # the variable that names the file which hostile code makes


def listed(root: Path, but: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder but one folder and the cases: the sizes and times of files, zeros of folders."""
    found: dict[str, tuple[int, int]] = {}
    for where, folders, names in os.walk(root):
        folders[:] = [f for f in folders if Path(where, f) != but and not (Path(where) == root and f[:5] == "case-")]
        found |= {str(Path(where, name)): (0, 0) for name in folders}
        for name in names:
            with contextlib.suppress(OSError):
                status = Path(where, name).lstat()
                found[str(Path(where, name))] = status.st_size, status.st_mtime_ns
    return found


def changed_of(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[str]:
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def executed() -> int:
    """How often hostile code ran since this was asked last."""
    mark = Path(os.environ[CANARY])
    times = mark.stat().st_size if mark.is_file() else 0
    mark.unlink(missing_ok=True)
    return times


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kills(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], tuple[str, float, float]]]]:
    """Killed at a random moment, and run again: nothing that was there is lost, nothing that was finished is run
    twice."""
    references: dict[str, tuple[float, Any]] = {}

    def reference(name: str) -> tuple[float, Any]:
        if name not in references:
            with copied(ready) as place:
                ended = forked(COMMANDS[name], place)
                assert ended.code == 0, ended.err
                references[name] = ended.seconds, rows_of(place)
        return references[name]

    def case(name: str, number: int) -> tuple[str, float, float]:
        seconds, rows = reference(name)
        draw, start = random.Random(f"{name}{number}"), time.perf_counter()
        with copied(ready) as place:
            before = contents(place)
            forked(COMMANDS[name], place, kill_s=draw.uniform(0, seconds))
            left = contents(place)
            wrong = "; ".join(
                f"lost {path}" for path in before if left.get(path) != before[path] and path not in SHARED
            )
            for path in place.rglob(".nacdeploy-*"):
                os.utime(path, (0, 0), follow_symlinks=False)
            kept = rows_of(place)
            wrong = wrong or again(name, place, rows, kept)
        return wrong, time.perf_counter() - start, 0.0

    for number in range(max(1, round(26 * scale))):
        for name in COMMANDS:
            yield f"{name} {number}", lambda name=name, number=number: case(name, number)


SHARED = {"runs/last.json"}


def rows_of(place: Path) -> list[Any]:
    """The rows of the journal in `out`, without what a clock has a share in."""
    path = place / "out/journal.jsonl"
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines[1:]]


def again(name: str, place: Path, rows: list[Any], kept: list[Any]) -> str:
    """What is wrong with a command that is run again after a kill."""
    command = COMMANDS[name]
    is_done = (place / "out").exists() or (place / "out.nac").exists()
    if name in ("search", "compress") and (place / "out/run.json").is_file():
        command = (name, "--resume", "out")
    elif (is_done and any((place / "out").glob("[!.]*"))) or (place / "out.nac").exists():
        shutil.rmtree(place / "out", ignore_errors=True)  # it was whole: made anew it must be the same
        (place / "out.nac").unlink(missing_ok=True)
    ended = forked(command, place)
    if ended.code != 0 and "exists already" not in ended.err:
        return f"{' '.join(command)} after a kill: {ended.err.strip().splitlines()[-1:]}"
    found = rows_of(place)
    if found != rows or kept != rows[: len(kept)]:
        return f"{len(found)} rows, {len(rows)} without a kill, {len(kept)} before it"
    if len({row["chain"] for row in found}) != len(found):
        return "a chain was run twice"
    left = [str(path.relative_to(place)) for path in place.rglob(".nacdeploy-*")]
    return f"left behind: {left}" if left else ""


def hostile(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], tuple[str, float, float]]]]:
    """Valid files of every kind, changed (see tests/contracts/test_hostile_files.py), 50 to a process."""
    import hostile_world

    world = hostile_world.make(ready.parent / "hostile")

    def case(kind: Any, first: int) -> tuple[str, float, float]:
        found = in_fork(lambda: changed(kind, world, first))
        OUTSIDE.extend(found.get("outside", ()))
        return found["wrong"], found["seconds"], found["mib"]

    for first in range(0, max(50, round(50 * 20 * scale)), 50):
        for kind in hostile_world.KINDS:
            yield f"{kind.name} {first}", lambda kind=kind, first=first: case(kind, first)


def changed(kind: Any, world: Path, first: int) -> dict[str, Any]:
    """The worst of 50 changes of one kind."""
    sys.path.insert(0, str(ROOT / "tests/contracts"))
    import hostile_world
    import mutations
    from test_hostile_files import outcome

    os.chdir(world)
    answer, start_mib = kind.read(world), peak_mib()
    wrong, slowest, around, outside = [], 0.0, listed(world.parent, but=world / "store"), set()
    for seed in range(first, first + 50):
        draw, start = random.Random(seed), time.perf_counter()
        other = (world / draw.choice(hostile_world.KINDS).file).read_bytes()
        mutation = mutations.mutated((world / kind.file).read_bytes(), kind.form, draw, other)
        problem = outcome(kind, world, mutation, answer)
        slowest = max(slowest, time.perf_counter() - start)
        own = {str(world / kind.file), str(world / "artifact/manifest.json")}
        outside |= {*changed_of(around, listed(world.parent, but=world / "store"))} - own
        wrong += [f"seed {seed}, {mutation.name}: {problem}"] if problem else []
    mib = peak_mib() - start_mib
    if slowest > MOST_S or mib > MOST_MIB:
        wrong.append(f"{slowest:.1f} s, {mib:.0f} MiB")
    return {"wrong": "; ".join(wrong)[:500], "seconds": slowest, "mib": mib, "outside": sorted(outside)}


def in_fork(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a call returns in a process of its own."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                said = call()
            except BaseException as error:
                said = {"wrong": f"{type(error).__name__}: {error}"[:300], "seconds": 0.0, "mib": 0.0}
        with os.fdopen(write, "w") as file:
            file.write(json.dumps(said))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    died = {"wrong": f"the process died ({os.waitstatus_to_exitcode(status)})", "seconds": 0.0, "mib": 0.0}
    return json.loads(text) if text else died


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limited(ready: Path, kind: int, values: list[int], label: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every command under a limit of the system: it ends well, or in a line, and nothing half lies in its place."""

    def case(name: str, value: int) -> tuple[str, float, float]:
        hard = resource.getrlimit(kind)[1]
        with copied(ready) as place:
            before = contents(place)
            ended = forked(COMMANDS[name], place, before=lambda: resource.setrlimit(kind, (value, hard)))
            after = contents(place)
            wrong = in_a_line(ended)
            lost = [path for path in before if after.get(path) != before[path] and path not in SHARED]
            half = [path for path in after if path.startswith("out") and path not in before]
            wrong = wrong or ("; ".join(f"lost {path}" for path in lost)) or half_left(name, ended, place, half)
        return wrong, ended.seconds, ended.mib

    for name in COMMANDS:
        for value in values:
            yield f"{name} {label} {value}", lambda name=name, value=value: case(name, value)


def half_left(name: str, ended: Ended, place: Path, left: list[str]) -> str:
    """What is wrong with the files that a command left in `out`: they are half of a result, or one is empty."""
    empty = [path for path in left if (place / path).stat().st_size == 0 and not path.endswith((".lock", ".jsonl"))]
    is_whole = ended.code == 0 or name in ("search", "compress") or "is whole, its report is not" in ended.err
    if empty and ended.code != 0:
        return f"empty: {empty[:3]}"
    return f"half of it is left: {left[:3]}" if left and not is_whole else ""


def disks(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Files of at most so many bytes (RLIMIT_FSIZE), as on a disk that is full."""
    yield from limited(
        ready, resource.RLIMIT_FSIZE, [0, 100, 5_000, 20_000, 60_000][: max(2, round(5 * scale))], "bytes"
    )


def handles(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Few open files (RLIMIT_NOFILE)."""
    yield from limited(ready, resource.RLIMIT_NOFILE, [8, 12, 16, 24][: max(2, round(4 * scale))], "files")


def memory(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Little more memory than is taken before the command begins (RLIMIT_AS)."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    more = [8, 64, 256][: max(1, round(3 * scale))]
    yield from limited(ready, resource.RLIMIT_AS, [now + mib * MIB for mib in more], "bytes of memory")


ODD: tuple[object, ...] = (
    *("", ".", "..", "/", "/proc/self/fdinfo/x", "/dev/null", "/dev/full/x", "tiny.toml", "tiny.toml/x", "x" * 300),
    *("loop", "loop/x", "ünïcödé ☃", "a\nb", " ", "-", "~", "runs/search-1", "dangling", "a/b/c/d/e", "x//y", "x/."),
)


def places(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Odd places for --out."""

    def case(name: str, out: object) -> tuple[str, float, float]:
        with copied(ready) as place:
            (place / "loop").symlink_to("loop")
            (place / "dangling").symlink_to("nowhere")
            before = contents(place)
            command = [*COMMANDS[name]]
            command[command.index("--out") + 1] = str(out)
            ended = forked((*command,), place)
            after = contents(place)
            lost = [path for path in before if after.get(path) != before[path] and path not in SHARED]
            return in_a_line(ended) or "; ".join(f"lost {path}" for path in lost), ended.seconds, ended.mib

    for name in ("decode", "transfer", "export")[: max(1, round(3 * scale))]:
        for out in ODD:
            yield f"{name} --out {str(out)[:30]!r}", lambda name=name, out=out: case(name, out)


def together(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Four searches at once in one folder, with one cache: each ends well, in a folder of its own."""

    def case() -> tuple[str, float, float]:
        start = time.perf_counter()
        with copied(ready) as place:
            pids = []
            for _ in range(4):
                pids.append(os.fork())
                if pids[-1] == 0:
                    _child(("search", "--cache", "cache"), place, os.open(os.devnull, os.O_WRONLY), lambda: None)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            runs = [path for path in (place / "runs").glob("search-*") if (path / "result.json").is_file()]
            rows = {(path / "journal.jsonl").read_text().count("\n") for path in runs}
        wrong = (
            "" if codes == [0] * 4 and len(runs) == 5 and len(rows) == 1 else f"{codes}, {len(runs)} runs, {rows} rows"
        )
        return wrong, time.perf_counter() - start, 0.0

    for number in range(max(1, round(10 * scale))):
        yield f"four at once {number}", case


def numbers(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Weights that are no numbers, or huge; images that are all alike."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file

    def weights(value: float, name: str) -> tuple[str, float, float]:
        with copied(ready) as place:
            values = load_file(next((place / "runs/baselines").glob("*/model.safetensors")))
            plain = {key.removeprefix("backbone."): tensor for key, tensor in values.items()}
            plain[name] = torch.full_like(plain[name], value)
            save_file(plain, place / "w.safetensors")
            ended = forked(("transfer", "--strategy", "QPE", "--checkpoint", "w.safetensors", "--out", "out"), place)
            return in_a_line(ended), ended.seconds, ended.mib

    def images(value: int) -> tuple[str, float, float]:
        with copied(ready) as place:
            for label in "ab":
                (place / "images" / label).mkdir(parents=True)
                for number in range(9):
                    pixels = np.full((8, 8), value, np.uint8)
                    Image.fromarray(pixels).save(place / f"images/{label}/{number}.png")
            ended = forked(("transfer", "--strategy", "QPF", "--data", "folder:images", "--out", "out"), place)
            return in_a_line(ended), ended.seconds, ended.mib

    names = ("stem.0.weight", "stem.1.running_var", "stem.1.weight", "classifier.weight")
    known = load_file(next((ready / "runs/baselines").glob("*/model.safetensors")))
    for name in [name for name in names if f"backbone.{name}" in known]:
        for value in (float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0)[: max(2, round(6 * scale))]:
            yield f"{name} is {value}", lambda value=value, name=name: weights(value, name)
    for value in (0, 255):
        yield f"images of {value}", lambda value=value: images(value)


def long(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Short searches in one process: memory and open files stay what they were."""
    n = max(10, round(100 * scale))

    def searches() -> dict[str, Any]:
        import nacdeploy

        with copied(ready) as place:
            os.chdir(place)
            start, seen = time.perf_counter(), []
            for number in range(n):
                options = {"budget": 2, "profile": "tiny.toml", "wandb": False, "seed": 0}
                nacdeploy.search(out=f"short-{number}", max_drop=100.0, **options)
                statm = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB
                seen.append((statm, len(os.listdir("/proc/self/fd"))))  # noqa: PTH208
                shutil.rmtree(f"short-{number}")
            (early_mib, early_files), (mib, files) = seen[min(9, n - 2)], seen[-1]
            grown = mib - early_mib
            wrong = f"{files - early_files} more open files" if files > early_files else ""
            wrong = wrong or (f"{grown:.0f} MiB more after {n} searches" if grown > 1.0 * n else "")
            return {"wrong": wrong, "seconds": time.perf_counter() - start, "mib": grown}

    def case() -> tuple[str, float, float]:
        found = in_fork(searches)
        return found["wrong"], found["seconds"], found["mib"]

    yield f"{n} searches", case


def code(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Files of strangers that hold or name code: it is not run, whatever is done with them."""
    import hostile_code

    def case(name: str, arguments: tuple[str, ...]) -> tuple[str, float, float]:
        with copied(ready, hostile_code.make) as place:
            settings = os.environ["NACDEPLOY_CONFIG"]
            os.environ["NACDEPLOY_CONFIG"] = f"{settings}-of-another"
            try:
                ended = forked(arguments, place)
            finally:
                os.environ["NACDEPLOY_CONFIG"] = settings
        return in_a_line(ended), ended.seconds, ended.mib

    for name, arguments in hostile_code.CASES.items():
        yield name, lambda name=name, arguments=arguments: case(name, arguments)


def small_disks(ready: Path, scale: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A disk of its own with little room left (a tmpfs, if this machine lets us mount one)."""
    if os.system(f"mkdir -p {ready.parent}/disk && mount -t tmpfs -o size=4k tmpfs {ready.parent}/disk 2>/dev/null"):
        print("no tmpfs can be mounted here: the part 'small' is left out", file=sys.stderr)
        return
    os.system(f"umount {ready.parent}/disk")

    def case(name: str, kib: int) -> tuple[str, float, float]:
        disk = ready.parent / "disk"
        used = sum(-(-path.stat().st_size // 4096) + 1 for path in ready.rglob("*")) * 4
        os.system(f"mount -t tmpfs -o size={used + kib}k tmpfs {disk}")
        try:
            place = Path(shutil.copytree(ready, disk / "w"))
            before = contents(place)
            ended = forked(COMMANDS[name], place)
            after = contents(place)
            lost = [path for path in before if after.get(path) != before[path] and path not in SHARED]
            half = [path for path in after if path.startswith("out") and path not in before]
            wrong = (
                in_a_line(ended) or "; ".join(f"lost {path}" for path in lost) or half_left(name, ended, place, half)
            )
        finally:
            os.system(f"umount {disk}")
        return wrong, ended.seconds, ended.mib

    for name in COMMANDS:
        for kib in [0, 16, 64, 256, 1024][: max(2, round(5 * scale))]:
            yield f"{name} with {kib} KiB", lambda name=name, kib=kib: case(name, kib)


PARTS: dict[str, Callable[[Path, float], Iterator[tuple[str, Callable[[], Any]]]]] = {
    "hostile": hostile,
    "code": code,
    "kills": kills,
    "disks": disks,
    "small": small_disks,
    "handles": handles,
    "memory": memory,
    "places": places,
    "together": together,
    "numbers": numbers,
    "long": long,
}


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the whole campaign")
    parser.add_argument("--only", nargs="*", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--rows", type=Path, default=ROWS, help="file of the rows")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop each part after so long")
    given = parser.parse_args()
    rows = [Row(**json.loads(line)) for line in given.rows.read_text().splitlines()] if given.rows.is_file() else []
    given.rows.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nacdeploy-reliability-") as root:
        for name, variable in (("home", "HOME"), ("tmp", "TMPDIR")):
            (Path(root) / name).mkdir()
            os.environ[variable] = f"{root}/{name}"
        tempfile.tempdir = None
        os.environ |= {"NACDEPLOY_CONFIG": f"{root}/settings", CANARY: f"{root}/tmp/RUN"}
        import_all()
        ready = worlds(Path(root))
        for part in given.only:
            rows += run_part(part, ready, given, {(row.part, row.case) for row in rows})
    print_table(rows)


def import_all() -> None:
    """Import what commands import, so that forks need not."""
    import importlib
    import pkgutil

    import torch

    import nacdeploy

    torch.set_num_threads(1)
    for each in pkgutil.walk_packages(nacdeploy.__path__, "nacdeploy."):
        with contextlib.suppress(Exception):  # runtimes that are not here
            importlib.import_module(each.name)
    import sklearn.datasets
    import torch._dynamo
    import torch.export
    import torch.onnx
    import torchvision.datasets  # noqa: F401

    sklearn.datasets.load_digits()


def run_part(part: str, ready: Path, given: argparse.Namespace, done: set[tuple[str, str]]) -> list[Row]:
    """The new rows of one part."""
    rows, end = [], time.perf_counter() + given.seconds
    for name, case in PARTS[part](ready, given.scale):
        if (part, name) in done or time.perf_counter() > end:
            continue
        OUTSIDE.clear()
        before = listed(ready.parent, but=ready.parent / "settings")
        wrong, seconds, mib = case()
        ran = executed()
        after = listed(ready.parent, but=ready.parent / "settings")
        outside = [*OUTSIDE, *(path for path in changed_of(before, after) if may_not(path, ready.parent))]
        wrong = wrong or (f"wrote outside: {outside[:3]}" if outside else "") or ("ran hostile code" if ran else "")
        rows.append(Row(part, name, wrong, round(seconds, 2), round(mib, 1), len(outside), ran))
        with given.rows.open("a") as file:
            file.write(json.dumps(asdict(rows[-1])) + "\n")
        if wrong:
            print(f"{part}: {name}: {wrong}"[:400], file=sys.stderr, flush=True)
    return rows


def may_not(path: str, root: Path) -> bool:
    """Whether a changed place is one that no case writes: not a place of work, nor what a kill leaves in /tmp."""
    inside = Path(path).relative_to(root).parts
    is_telemetry = inside[:2] == ("home", "intel")  # OpenVINO's own, when `doctor` asks it for its devices
    return inside[0] not in ("hostile", "settings-of-another", "disk", "tmp") and not is_telemetry


def print_table(rows: list[Row]) -> None:
    """Cases and what went wrong, by part."""
    import platform

    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, one thread")
    print(
        f"{'part':10} {'cases':>6} {'wrong':>6} {'outside':>8} {'code run':>9} {'slowest s':>10} {'most MiB':>9}  what"
    )
    for part in PARTS:
        mine = [row for row in rows if row.part == part]
        each = 50 if part == "hostile" else 1
        bad = [row for row in mine if row.wrong]
        kinds = Counter(row.wrong.partition(":")[0][:40] for row in bad)
        said = "; ".join(f"{n} x {kind}" for kind, n in kinds.most_common(3))
        slowest, most = (max((getattr(row, key) for row in mine), default=0.0) for key in ("seconds", "mib"))
        outside, ran = (sum(getattr(row, key) for row in mine) for key in ("outside", "executed"))
        counts = f"{each * len(mine):6} {len(bad):6} {outside:8} {ran:9}"
        print(f"{part:10} {counts} {slowest:10.1f} {most:9.0f}  {said}")


if __name__ == "__main__":
    main()

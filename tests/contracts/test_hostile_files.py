"""Other people's files: however one of them is changed, it is refused in one line on purpose, or read as it was.

Where a file has a hash, no changed bit is believed. Where it has none, another valid file may come out of it, which is
then read as what it is; numbers that are none, names that cannot be written, nesting without end and unknown schemas
are refused wherever they stand. An exception that nobody foresaw counts as a fault also where a line of ours hides it.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hostile_code
import hostile_world
import mutations
import pytest
from hostile_world import HASHED, KINDS, Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUICK, SLOW = 50, 2000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of hostile files, as the current one: a name of code in a record leads to the code beside it."""
    folder = hostile_world.make(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(hostile_code.CANARY, str(tmp_path_factory.mktemp("mark") / "RUN"))
        yield folder


@pytest.fixture(scope="module")
def answers(world: Path) -> dict[str, object]:
    return {kind.name: kind.read(world) for kind in KINDS}


def outcome(kind: Kind, world: Path, mutation: mutations.Mutation, answer: object) -> str | None:
    """What is wrong with how a changed file is read, None where nothing is."""
    path, manifest = world / kind.file, world / "artifact/manifest.json"
    kept = {place: place.read_bytes() for place in (path, manifest)}
    try:
        path.write_bytes(mutation.content)
        kind.mend(world)
        found = kind.read(world)
    except Exception as error:  # what it is is told below
        return mutations.fault(error)
    finally:
        for place, content in kept.items():
            place.write_bytes(content)
    if Path(os.environ[hostile_code.CANARY]).exists():
        return "ran code"
    is_same = found == answer
    if mutation.is_lethal and not is_same:
        return "believed, whatever it stands for"
    return "believed against its hash" if kind.name in HASHED and mutation.is_damage and not is_same else None


def check(kind: Kind, world: Path, answers: dict[str, object], n: int) -> None:
    @settings(
        max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=n <= QUICK
    )
    @given(st.integers(0, 2**32 - 1))
    def holds(seed: int) -> None:
        draw = random.Random(seed)
        other = (world / draw.choice(KINDS).file).read_bytes()
        mutation = mutations.mutated((world / kind.file).read_bytes(), kind.form, draw, other)
        wrong = outcome(kind, world, mutation, answers[kind.name])
        assert wrong is None, f"{kind.name}, {mutation.name}, seed {seed}: {wrong}"

    holds()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_changed_file_is_refused_in_a_line_or_read_as_it_was(
    kind: Kind, world: Path, answers: dict[str, object]
) -> None:
    check(kind, world, answers, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_changed_files_are_refused_by_the_thousand(kind: Kind, world: Path, answers: dict[str, object]) -> None:
    check(kind, world, answers, SLOW)


def test_code_that_is_named_leaves_its_mark(world: Path) -> None:
    """The mark that the other tests look for is one that code makes."""
    exec(hostile_code.EVIL, {})
    mark = Path(os.environ[hostile_code.CANARY])
    assert mark.read_text() == "x"
    mark.unlink()

"""Continuing a search: the record of a run, the facts that must not have changed since, and the rows that a fork
reuses."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import own
from nacdeploy.base.progress import Progress
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import DEFAULT
from nacdeploy.sessions.options import RECORDED, Options, filled
from nacdeploy.sessions.session import Session
from nacdeploy.sessions.setup import Request, search_keys, wanted
from nacdeploy.sessions.setup import recorded as continued
from nacdeploy.strategies.search import journal
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.search.journal import Change, Evaluation
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.steps.advance import VERSIONS

RUN_FILE, JOURNAL, TAKEN, CACHE = "run.json", "journal.jsonl", "taken.jsonl", "cache"
# A run may go on with other ones of these: they say where it ends and where its memory lies, not what it finds.
LIMITS = ("search.budget", "search.max_trainings", "search.max_hours", "search.cache", "search.cache_gib")
# Rows hold under other ones of these: they decide which chains are looked at and how they rank, no figure of a chain.
RANKING = (
    "name",
    "experience_sha256",
    "search.beam_width",
    "search.dqn.",
    "search.experience",
    "search.figure",
    "search.max_drop",
    "search.nac_accuracy_weight",
    "search.objective",
    "search.objectives",
    "search.rules.",
    "search.searcher",
    "search.window",
)
_ASIDE = {"description", "bench", "export"}
# Keys that runs of older versions do not know: at these values they say what those did.
_LATER = {"images.resize": None, "images.crop": None, "images.interpolation": "bilinear", "images.broken": "refuse"}
_LATER |= {"images.preprocess": None, "images.channel_order": "rgb", "images.value_range": "0..1"}
_PLACES = ("images.in_memory_mib", "images.cache_mib")  # where decoded images lie, not what they are


@dataclass(frozen=True)
class Run:
    """run.json.

    Attributes:
        profile: the profile of the run, every choice made.
        asked: the user's options by name, and under `search` keys of that table.
        settings: the values of the user's profile and options at the start, to notice later changes.
    """

    profile: dict[str, Any]
    checkpoint: str | None
    asked: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Start:
    """Where a search begins or goes on: its folder, what it is asked for, also as its record says it, the run that it
    is a fork of, and the keys that keep the default of the version that began it."""

    place: Path
    request: Request
    asked: dict[str, Any]
    source: Path | None = None
    kept: Sequence[Change] = ()

    def run(self, profile: Profile) -> Run:
        """Return the record of the run that begins here; `profile` is its own with every choice made."""
        written = _settings_of(self.request.settings.profile, LIMITS)
        return Run(profile.model_dump(mode="json"), self.request.options["checkpoint"], self.asked, written)


def begun(place: Path, options: Options, search: Mapping[str, Any]) -> Start:
    """Return a new run by options and keys of the search table.

    Raises:
        UsageError: no such profile, or a value that it does not take.
    """
    given = search_keys(search)
    named = {name: value for name, value in filled(options).items() if name in RECORDED}
    return Start(place, wanted(options, search=given), {**named, "search": given})


def recorded(place: Path) -> Run:
    """Return the record of a run.

    Raises:
        UsageError: the folder holds none.
    """
    if not (place / RUN_FILE).is_file():
        raise UsageError(f"{place} is no search run (it has no {RUN_FILE}); --resume takes the folder of one")
    return records.read(Run, place / RUN_FILE)


def resumed(place: Path, options: Options, search: Mapping[str, Any]) -> Start:
    """Return a run as it recorded itself; other limits are allowed.

    Raises:
        UsageError: it is no run, or its profile says something else now.
    """
    run = recorded(place)
    changed, defaults = _changed_profile(run)
    if changed:
        raise UsageError(
            f"profile {run.asked['profile']} has changed since {place} began: {', '.join(map(str, changed))}; bring "
            f"that back, or begin a new run by it that takes over what still holds: --resume {place} --fork"
        )
    _check_places(run, place, search)
    new_head = bool(run.asked.get("new_head"))
    request = continued(run.profile, place / RUN_FILE, options, run.checkpoint, new_head, search=search_keys(search))
    return Start(place, request, run.asked, kept=defaults)


def _check_places(run: Run, place: Path, search: Mapping[str, Any]) -> None:
    """Check that somebody else's run reads and writes no cache outside its own folder, and downloads nothing there.

    Raises:
        UsageError: it names such a place, and the user does not.
    """
    own.check_links(place, place / RUN_FILE)
    table, data = run.profile.get("search"), str(run.profile.get("data", ""))
    cache = table.get("cache") if isinstance(table, dict) and search.get("cache") is None else None
    source, _, folder = data.partition(":") if data != run.profile.get("model") else ("", "", "")  # a task of one's own
    named = {"the cache": cache, "the data": folder if source != "folder" else None}
    for what, where in named.items():
        if where and not own.is_own(place / RUN_FILE) and not own.is_inside(Path(str(where)), [place]):
            more = " pass --cache LOCATION, or" if what == "the cache" else ""
            raise UsageError(
                f"{place / RUN_FILE} was not written by you here, and names {what} {str(where)[:200]} outside its "
                f"folder:{more} 'nacdeploy trust {place}' if you trust it"
            )


def forked(source: Path, place: Path, options: Options, search: Mapping[str, Any]) -> Start:
    """Return a new run asked for as `source` was, with what is given here in place of its own."""
    run = recorded(source)
    _check_places(run, source, search)
    theirs = run.asked
    given = search_keys(search)
    merged = {**_options_of(theirs), **{name: value for name, value in options.items() if value is not None}}
    return replace(begun(place, cast(Options, merged), {**theirs.get("search", {}), **given}), source=source)


def _options_of(asked: Mapping[str, Any]) -> Options:
    """Return the options of a record."""
    return cast(Options, {name: asked[name] for name in RECORDED if name in asked})


def _settings_of(profile: Profile, aside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what of a profile decides a search, keyed as a profile names it: `search.max_drop`."""
    flat = _flat(profile.model_dump(mode="json", exclude=_ASIDE))
    kept = {key: value for key, value in flat.items() if key not in (*aside, *_PLACES)}
    return {key: value for key, value in kept.items() if key not in _LATER or value != _LATER[key]}


def fingerprint(session: Session) -> dict[str, Any]:
    """Return the facts that must be the same for a run to continue: everything but its end."""
    alphabet = parsed(session.profile.search.alphabet).letters
    taught = [records.sha256_file(Path(place) / JOURNAL) for place in session.profile.search.experience]
    return {
        "baseline": session.baseline.key,
        "data_sha256": session.task.data.fingerprint,
        **{f"operator.{x}": version for x, version in letters.versions(set(alphabet)).items()},
        **{f"code.{name}": version for name, version in VERSIONS.items()},
        **({"experience_sha256": taught} if taught else {}),
        **_settings_of(session.profile, LIMITS),
    }


def take_over(source: Path, folder: Path, session: Session, progress: Progress) -> None:
    """Put the rows and memory of a run that hold in this session into `folder`, and report them.

    They hold if no figure of a chain depends on the changes. Rows without a speed do not hold if speed ranks.
    """
    theirs, rows = _rows(source)
    ours = fingerprint(session)
    if session.profile.search.on_speed:
        rows = [row for row in rows if row.figures is None or row.figures.speed_ratio is not None]
    changed = journal.changes(theirs, ours)
    said = f"fork of {source}: {', '.join(map(str, changed)) or 'nothing changed'}"
    if not theirs or not all(_only_ranks(change.key) for change in changed):
        progress.say(f"{said}; none of its {len(rows)} rows holds, everything is evaluated anew")
        return
    journal.write(folder / TAKEN, ours, rows)
    if (source / CACHE).is_dir():
        shutil.copytree(source / CACHE, folder / CACHE, copy_function=_linked)
    progress.say(f"{said}; its {len(rows)} rows hold and are ranked anew, its memory is taken over")


def taken(place: Path) -> dict[str, Evaluation]:
    """Return the rows that a fork reuses, by chain."""
    if not (place / TAKEN).is_file():
        return {}
    return {row.chain: row for row in journal.read(place / TAKEN)[1]}


def _only_ranks(key: str) -> bool:
    return any(key == known or (known.endswith(".") and key.startswith(known)) for known in RANKING)


def _rows(source: Path) -> tuple[dict[str, Any], list[Evaluation]]:
    """Return the fingerprint and rows of a run, including the rows that it reused itself."""
    if not (source / JOURNAL).is_file():
        return {}, []
    theirs, rows = journal.read(source / JOURNAL)
    return theirs, list({**taken(source), **{row.chain: row for row in rows}}.values())


def _linked(source: str, target: str) -> None:
    """Link entries, which are never changed in place, so that two runs may share one file."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _changed_profile(run: Run) -> tuple[list[Change], list[Change]]:
    """Return the changes in the user's sources, and the changed defaults of keys that the sources leave open."""
    name = run.asked["profile"]
    if name.endswith(".toml") and not Path(name).is_file():
        return [], []  # the run's own record is whole: it goes on without the file
    now = wanted(_options_of(run.asked), search=run.asked.get("search", {})).settings
    open_keys = {row.key for row in now.rows() if row.source == DEFAULT}
    changes = journal.changes(run.settings, _settings_of(now.profile, LIMITS))
    return [c for c in changes if c.key not in open_keys], [c for c in changes if c.key in open_keys]


def _flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

"""The list of `nacdeploy show --settings`: every key in force, its source, and the values of weaker sources."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nacdeploy import models
from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Progress
from nacdeploy.profile.settings import Settings
from nacdeploy.results.outcome import CHECKPOINT
from nacdeploy.sessions.options import ASIDE, SPELLINGS, Options
from nacdeploy.sessions.resuming import RUN_FILE
from nacdeploy.sessions.setup import search_keys, settled, to_apply, to_search, wanted
from nacdeploy.strategies.steps import checkpoint as checkpoints


def in_force(
    what: str | None,
    options: Options,
    search: Mapping[str, Any],
    precision: Path | str | None,
    rules: Path | str | None,
    progress: Progress,
) -> Settings:
    """Return the settings in force, without training a baseline.

    They are those of a search here, with keys of its table in `search`; those of `transfer` with the strategy `what`;
    or those recorded in the run, result or checkpoint `what`.

    Raises:
        UsageError: options or files that have no effect here; all refusals of `transfer` and `search`.
    """
    record = _recorded(Path(what)) if what is not None else None
    files = {"precision": precision, "rules": rules}
    if record is not None:
        _check_none({**options, **files, **search}, f"{what} has settings of its own")
        return record
    models.name_by_user(options.get("model"), options.get("task"))
    if what is not None:
        _check_none(search, "a strategy is applied, not searched for")
        return settled(to_apply(what, options, precision, rules), progress).settings
    _check_none(files, "no strategy is given, such as QPPF, that it would go with")
    return settled(to_search(wanted(options, search=search_keys(search))), progress).settings


def _recorded(path: Path) -> Settings | None:
    """Return the settings that the folder of a run, a result or a checkpoint records."""
    if records.is_file(path / RUN_FILE):
        where = path / RUN_FILE
        data: Any = records.read_json(where)
        if not isinstance(data, dict) or not isinstance(data.get("profile"), dict):
            raise UsageError(f"{where} records no settings")
        return Settings.of(profiles.from_mapping(data["profile"], str(where)), str(where))
    for folder in (path, path / CHECKPOINT):
        if checkpoints.is_checkpoint(folder):
            return Settings.of(checkpoints.read_record(folder).settings(), str(folder / checkpoints.RECORD))
    return None


def _check_none(given: Mapping[str, Any], why: str) -> None:
    """Refuse options that are given, unless nacdeploy.toml alone gives them."""
    file = given.get("settings_file", {})
    for name, value in given.items():
        default = SPELLINGS[name].default if name in SPELLINGS else None
        if name not in ASIDE and value not in (None, (), default) and (name not in file or file[name] != value):
            raise UsageError(f"{why}: leave --{name.replace('_', '-')} away")

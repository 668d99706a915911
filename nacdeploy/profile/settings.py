"""Settings: the value in force of every key, and the sources that gave it one.

A profile is what one file says. Settings are what all sources say together: they are made by `sessions/setup.py`, which
puts the stronger source over the weaker one, and never change afterwards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nacdeploy import profile as profiles
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.table import Table

DEFAULT = "default"
Layer = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SourceValue:
    """A value that a source gives a key."""

    source: str
    value: Any


@dataclass(frozen=True)
class KeyRow:
    """One key: its value in force, the source of that value, and what weaker sources say, the strongest first."""

    key: str
    value: Any
    source: str
    instead_of: tuple[SourceValue, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The settings in force.

    Attributes:
        profile: every key with its value in force, as the tables of a profile.
        given: by key (`prune.ratio`) what its sources say, the strongest first; a key without any has its default.
    """

    profile: Profile
    given: Mapping[str, tuple[SourceValue, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, profile: Profile, source: str) -> "Settings":
        """Return the settings of a record, which names every key."""
        return cls(profile, {key: (SourceValue(source, value),) for key, value in flat(profile).items()})

    @classmethod
    def loaded(cls, name: str) -> "Settings":
        """Return the settings of a shipped profile, or of a file ending in `.toml`.

        Raises:
            UsageError: no such profile, or the file has errors (all of them are named).
        """
        written, where = profiles.read(name)
        profile = profiles.from_mapping(written, where)
        defaults = flat(profiles.schema()(name=profile.name))
        said = {k: v for k, v in flat(profile).items() if k not in defaults or v != defaults[k] or _names(written, k)}
        return cls(profile, {key: (SourceValue(f"profile {name}", value),) for key, value in said.items()})

    def over(self, *layers: Layer) -> "Settings":
        """Return the settings with further sources over these, the weakest first: names, and tables given in part.

        Raises:
            UsageError: an unknown key, or a value that it does not take.
        """
        tables: dict[str, Any] = {}
        for _, layer in layers:
            for key, value in layer.items():
                tables[key] = {**tables.get(key, {}), **value} if isinstance(value, dict) else value
        if all(table == {} for table in tables.values()):
            return self
        only = {source for source, _ in layers}
        where = "options" if len(only) > 1 or min(only).startswith("--") else min(only)
        profile = profiles.override(self.profile, tables, where)
        before, now, given = flat(self.profile), flat(profile), dict(self.given)
        for key, value in now.items():
            named = [
                SourceValue(source, _value(layer, key)) for source, layer in reversed(layers) if _names(layer, key)
            ]
            if not named and value != before.get(key, value):  # follows from another key of the strongest source
                named = [SourceValue(layers[-1][0], value)]
            if named:
                given[key] = (SourceValue(named[0].source, value), *named[1:], *given.get(key, ()))
        return Settings(profile, given)

    def rows(self) -> tuple[KeyRow, ...]:
        """Return every key, in the order of a profile's tables."""
        return tuple(self._row(key, value) for key, value in flat(self.profile).items())

    def _row(self, key: str, value: Any) -> KeyRow:
        strongest, *weaker = self.given.get(key, (SourceValue(DEFAULT, value),))
        return KeyRow(key, value, strongest.source, tuple(each for each in weaker if each.value != value))


def flat(profile: Profile) -> dict[str, Any]:
    """Return the plain value of every key of a profile, keyed as a profile names it: `search.rules.max_length`."""
    return dict(_flat(profile, profile.model_dump(mode="json"), ""))


def _flat(table: Table, plain: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key in type(table).model_fields:
        inner = getattr(table, key)
        if not isinstance(inner, Table):
            yield prefix + key, plain.get(key, inner)  # a record leaves out what older versions did not have
        elif key in plain:
            yield from _flat(inner, plain[key], f"{prefix}{key}.")


def _names(tables: Mapping[str, Any], key: str) -> bool:
    """Tell whether tables name a key."""
    first, _, rest = key.partition(".")
    inner = tables.get(first)
    return first in tables and (not rest or (isinstance(inner, Mapping) and _names(inner, rest)))


def _value(tables: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key that tables name."""
    first, _, rest = key.partition(".")
    return _value(tables[first], rest) if rest else tables[first]

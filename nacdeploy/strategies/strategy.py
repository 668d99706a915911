"""Strategy: a chain with the settings and the origin of its search; strategy.json."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.profile import Profile
from nacdeploy.strategies import catalog
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators import OPERATORS

FILE = "strategy.json"


def _chain(given: Any) -> Chain:
    if not isinstance(given, str | Chain):
        raise ValueError("a chain is a text such as 'QPPF'")
    return Chain.parse(given) if isinstance(given, str) else given


# A chain that is a text in JSON.
ChainText = Annotated[Chain, PlainValidator(_chain), PlainSerializer(str, return_type=str)]


@dataclass(frozen=True)
class Strategy:
    """A chain, the profile tables of its letters, and its origin (model, data, figures), for the reader."""

    chain: ChainText
    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    schema: int = records.SCHEMA_VERSION


def settings_of(chain: Chain, profile: Profile) -> dict[str, Any]:
    """Return the tables of a chain's strategy: those of this package's letters, and of the chain's letters from
    elsewhere."""
    brought = [each for each in profiles.letters().values() if each in OPERATORS or each.letter in chain.word]
    return {each.table: profile.of(each.settings).model_dump(mode="json") for each in brought}


def brought(strategy: Strategy) -> dict[str, Any]:
    """Return the tables with which a strategy's letters were found.

    Raises:
        UsageError: the strategy holds a table of no letter. If one of its letters is missing too, no error is
            raised here.
    """
    known = profiles.letters()
    tables = {each.table for each in known.values()}
    strange = next((name for name in strategy.settings if name not in tables), None)
    if strange is not None and all(letter in known for letter in strategy.chain.word):
        raise unknown("table of a strategy", strange, tables)
    return {name: table for name, table in strategy.settings.items() if name in tables}


def resolve(text: "str | Strategy") -> Strategy:
    """Return the strategy of a word (`QPPF`), a strategy file or its folder, or a published name (`catalog:NAME`).

    Raises:
        UsageError: `text` is none of these.
    """
    if isinstance(text, Strategy):
        return text
    if not text.strip():
        raise UsageError("the strategy is empty; give letters such as QPPF, a strategy.json or catalog:NAME")
    if text.startswith("catalog:"):
        published = catalog.find(text.removeprefix("catalog:"))
        return Strategy(published.chain, origin={**records.to_data(published), "chain": str(published.chain)})
    path = Path(text)
    if records.is_file(path / FILE):
        path = path / FILE
    if path.suffix == ".json":
        return records.read(Strategy, path)
    return Strategy(Chain.parse(text))

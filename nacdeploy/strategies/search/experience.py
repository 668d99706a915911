"""Experience: what earlier searches saw, as observations that teach a searcher what steps do.

Only chains and figures count: which states are good there says nothing here, so nothing of that is kept.
"""

from collections.abc import Sequence
from pathlib import Path

import nacdeploy.strategies.search.journal as journal
from nacdeploy.base.errors import UsageError
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.observation import Observation

JOURNAL = "journal.jsonl"


def gathered(places: Sequence[Path | str]) -> tuple[tuple[Observation, ...], ...]:
    """The observations of the runs in these folders.

    Raises:
        UsageError: one is no folder of a search, or its journal is damaged or holds nothing to learn from.
    """
    return tuple(_of_run(Path(place)) for place in places)


def _of_run(place: Path) -> tuple[Observation, ...]:
    if not (place / JOURNAL).is_file():
        raise UsageError(f"search.experience: {place} is no search run (it has no {JOURNAL}); give the folder of one")
    _, rows = journal.read(place / JOURNAL)
    seen = tuple(Observation(Chain.parse(r.chain), r.figures, 0.0, False, (), r.state_key) for r in rows if r.figures)
    if len(seen) < 2:
        raise UsageError(f"search.experience: {place} holds no evaluated chain to learn from; leave it away")
    return seen

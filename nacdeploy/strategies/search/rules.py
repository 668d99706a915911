"""The rules of a search: the letters that may follow a chain (NAC's `comp_full`, forced F and truncation).

The rules bind searchers only, and are the same in exploration, choice and target. An operator's refusals concern the
model and come in from outside. Drops are compared with a small tolerance, so that rounding decides nothing.
"""

from collections.abc import Mapping

from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.search.objective import DROP_TOLERANCE, Figures


def legal_letters(
    chain: Chain, figures: Figures, table: RulesTable, alphabet: str, refused: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the symbols of `alphabet`, in its order, that may follow `chain`; none if the chain ends.

    Args:
        chain: the letters so far.
        figures: the figures of their state.
        table: the profile's rules.
        alphabet: the letters of this search, with choices of their parameters.
        refused: letter or symbol -> reason, for the operators that do not apply to this state.
    """
    drop = figures.drop_points
    if _ended(chain, drop, table):
        return ()
    forced = table.by_drop and drop > table.forced_factor * table.finetune_due + DROP_TOLERANCE
    return tuple(
        str(link)
        for link in parsed(alphabet).links
        if not (forced and link.letter != "F")
        and link.letter not in refused
        and str(link) not in refused
        and _due(link.letter, chain, drop, table)
    )


def _ended(chain: Chain, drop: float, table: RulesTable) -> bool:
    unrepaired = table.by_drop and chain.word.endswith("F") and drop > table.finetune_due / 2 + DROP_TOLERANCE
    return len(chain) >= table.max_length or unrepaired


def _due(letter: str, chain: Chain, drop: float, table: RulesTable) -> bool:
    if letter == "F" and not table.by_drop:
        return bool(chain.word) and not chain.word.endswith("F")
    if letter == "F":
        return drop >= table.finetune_due - DROP_TOLERANCE
    return letter != "P" or chain.word.count("P") < table.max_prunes

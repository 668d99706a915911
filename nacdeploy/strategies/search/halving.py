"""Short finetunes promoted by halving: the best chains of a search are trained again with twice the epochs, the better
half goes on, until the full length (successive halving: Jamieson and Talwalkar, 2016).

A promoted chain is an evaluation like any other, with the epochs in the name of its F: journaled, resumable, its
trainings counted. Every prefix that ends in F is evaluated by itself, so that one evaluation trains at most once.
"""

from collections.abc import Iterator, Sequence

from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.search.engine import Workers, evaluated
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.search.objective import Objective, is_alive
from nacdeploy.strategies.search.search_result import SearchResult, result_of


def rungs(n_epochs: int, fraction: float) -> tuple[int, ...]:
    """Return the epochs of an F in the search, and then of every promotion, the full `n_epochs` last."""
    epochs = [max(1, round(n_epochs * fraction))]
    while epochs[-1] < n_epochs:
        epochs.append(min(n_epochs, 2 * epochs[-1]))
    return tuple(epochs)


def promoted(
    found: SearchResult, objective: Objective, workers: Workers, journal: Journal, epochs: Sequence[int]
) -> SearchResult:
    """Train the most promising chains of a search for each of `epochs` in turn, and return the search's result.

    Every turn promotes twice as many chains as the next, the last turn two.
    """
    rows = {evaluation.chain: evaluation for evaluation in found.evaluations}
    journaled = {evaluation.chain: evaluation for evaluation in journal.evaluations}
    pool = list(found.evaluations)
    for n_left, n_epochs in zip(range(len(epochs), 0, -1), epochs, strict=True):
        chosen = _most_promising(pool, objective)[: 2**n_left]
        pool = []
        for evaluation in chosen:
            for chain in _beginnings(_with_epochs(Chain.parse(evaluation.chain), n_epochs)):
                name = str(chain)
                if name not in rows:
                    rows[name] = journaled.get(name) or evaluated(chain, workers, journal)
            pool.append(rows[str(_with_epochs(Chain.parse(evaluation.chain), n_epochs))])
    return result_of(tuple(rows.values()), objective)


def _most_promising(evaluations: Sequence[Evaluation], objective: Objective) -> list[Evaluation]:
    """Return trained chains, each state once, in the order of promise.

    First the best that may win; then chains that would be better but lose too much so far, the nearest first; then the
    others that may win.
    """
    trained = {e.state_key: e for e in reversed(evaluations) if "F" in Chain.parse(e.chain).word}
    alive = [(e, e.figures) for e in trained.values() if e.figures is not None and is_alive(e.figures)]
    able = sorted((p for p in alive if objective.admissible(p[1])), key=lambda p: -objective.worth(p[1]))
    best = objective.worth(able[0][1]) if able else float("-inf")
    beyond = [p for p in alive if not objective.admissible(p[1]) and objective.worth(p[1]) > best]
    beyond.sort(key=lambda p: p[1].drop_points)
    return [e for e, _ in (*able[:1], *beyond, *able[1:])]


def _with_epochs(chain: Chain, n_epochs: int) -> Chain:
    return Chain(tuple(_longer(link, n_epochs) if link.letter == "F" else link for link in chain))


def _longer(link: Link, n_epochs: int) -> Link:
    rest = tuple(pair for pair in link.parameters if pair[0] != "epochs")
    return Link(link.letter, (("epochs", n_epochs), *rest))


def _beginnings(chain: Chain) -> Iterator[Chain]:
    """Yield the prefixes that end in F, and the chain itself."""
    for length, link in enumerate(chain, start=1):
        if link.letter == "F" or length == len(chain):
            yield Chain(chain.links[:length])

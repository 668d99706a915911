"""make bench-transfer: chains of one network carried to five others, each forecast before it trains, against the truth
and against the rule that a chain loses and gains elsewhere what it did where it was found.

`python benchmarks/transfers.py [--run FOLDER]`. Resumable: a transfer that lies in the folder is not made again, and
its forecast of the drop is told anew from what its rehearsal saw. The transfers are numbered; the constants of
`nacdeploy/forecasts/losses.py` were chosen on the even ones, and the coverage is stated for both halves. Scores are of
validation images; the test split is not looked at.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nacdeploy.base import records
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.progress import Silent
from nacdeploy.forecasts import losses
from nacdeploy.forecasts.forecast import Forecast, Found
from nacdeploy.forecasts.losses import Source
from nacdeploy.forecasts.plan import Wish, planned
from nacdeploy.forecasts.ranges import Range
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import to_apply
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.trials.evaluator import figures_of

PROFILE = """
target = "ort"
model = "{model}"
width = {width}
data = "{data}"
images = {{n_train = {n_train}, n_validation = {n_validation}, n_test = 500, input_size = 16}}
train = {{epochs = 8, learning_rate = 0.05, batch_size = 64}}
finetune = {{epochs = 2, learning_rate = 0.02, batch_size = 64, schedule = "cosine"}}
prune = {{multiple = 4, scope = "uniform"}}
quantize = {{min_channels = 1, ladder = ["w8a8", "w4a8"]}}
settle = {{n_images = 1024, batch_size = 128}}
"""
CHAINS = (
    "P(ratio=0.5)QF",
    "P(ratio=0.25,scope=global)F(epochs=1)P(ratio=0.25,scope=global)F",
    "P(ratio=0.7)F(epochs=3)Q",
    "QQF(epochs=1)",
)


@dataclass(frozen=True)
class Network:
    """A network and its images."""

    model: str
    width: float
    data: str

    def __str__(self) -> str:
        return f"{self.model} {self.width:g}, {'Fashion' if self.data == 'fashion-mnist' else self.data}"

    @property
    def profile(self) -> str:
        """The profile's text."""
        n_train, n_validation = (4000, 2000) if self.data == "fashion-mnist" else (1000, 500)
        return PROFILE.format(**vars(self), n_train=n_train, n_validation=n_validation)


SOURCE = Network("resnet8", 16, "fashion-mnist")
OTHERS = (
    Network("resnet8", 8, "fashion-mnist"),
    Network("resnet8", 32, "fashion-mnist"),
    Network("resnet20", 12, "fashion-mnist"),
    Network("mobilenet_v2", 0.35, "fashion-mnist"),
    Network("resnet8", 16, "digits"),
)


@dataclass(frozen=True)
class Row:
    """A chain on a network: what was told, what came out, the baseline's time, and the seconds of the training."""

    told: Forecast
    found: Found
    figures: Figures
    baseline_ms: float
    seconds: float

    @property
    def error(self) -> float:
        """What the baseline errs, in points."""
        return 100.0 * (1.0 - self.figures.baseline_quality)

    @property
    def rehearsed(self) -> float:
        """What the rehearsal lost, in points."""
        return self.told.stages[-1].lost


@dataclass(frozen=True)
class Transfer:
    """A chain carried from the source to another network, by its number in the table."""

    number: int
    network: Network
    chain: str
    there: Row
    here: Row

    @property
    def drop(self) -> Range:
        """The drop as it is told with what the source's run records."""
        source = Source(self.there.figures.drop_points, self.there.rehearsed)
        return losses.to_come(self.here.rehearsed, self.here.error, source)


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path("bench-run/transfers"))
    run = parser.parse_args().run
    torch.set_num_threads(1)
    there = dict(zip(CHAINS, _rows(SOURCE, run), strict=True))
    transfers: list[Transfer] = []
    for network in OTHERS:
        for chain, row in zip(CHAINS, _rows(network, run), strict=True):
            transfers.append(Transfer(len(transfers), network, chain, there[chain], row))
    print_table(transfers)


def _rows(network: Network, run: Path) -> list[Row]:
    session: Session | None = None
    rows = []
    for number, chain in enumerate(CHAINS):
        path = run / f"{network.model}-{network.width:g}-{network.data}-{number}.json"
        if not path.is_file():
            session = session or _session(network, run)
            records.write_json(path, _row(session, Chain.parse(chain)))
        rows.append(records.read(Row, path))
    return rows


def _session(network: Network, run: Path) -> Session:
    path = run / f"{network.model}-{network.width:g}-{network.data}.toml"
    records.write_text(path, network.profile)
    return open_session(to_apply("PQF", {"profile": str(path), "runs": str(run / "runs")}), Silent())


def _row(session: Session, chain: Chain) -> Row:
    plan = planned(session, chain, {}, Wish(forecast=True), False, Silent())
    watch = Stopwatch()
    state = follow(chain, session.baseline, session.task, session.profile).state
    seconds, found = watch.seconds(), plan.found(state, Silent())
    assert plan.told is not None
    assert plan.watch is not None
    assert found is not None
    row = Row(plan.told, found, figures_of(state, session.profile), plan.watch.baseline_ms or 0.0, seconds)
    print(f"{session.task.spec.name} {chain}: {row.rehearsed:.2f} rehearsed, {found.drop:.2f} found", flush=True)
    return row


def print_table(transfers: Sequence[Transfer]) -> None:
    """Print every transfer and what the table says in numbers."""
    for each in transfers:
        print(each.number, each.network, each.chain, each.drop, each.here.found.drop)


if __name__ == "__main__":
    main()

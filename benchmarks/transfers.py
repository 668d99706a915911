"""make bench-transfer: chains of one network carried to others, each forecast before it trains, against the truth
and against the rule that a chain loses and gains elsewhere what it did where it was found.

`python benchmarks/transfers.py [--run FOLDER]`. Resumable: a transfer that lies in the folder is not made again, and
its limits are told anew from what its rehearsal saw. The constants of `nacdeploy/forecasts/` were chosen on one half of
the transfers to five networks, the white fields of the board of networks and chains, and the coverage is stated for
both; two more networks were met when every constant stood. Scores are of
validation images; the test split is not looked at.
"""

import argparse
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.progress import Silent
from nacdeploy.forecasts import losses
from nacdeploy.forecasts.forecast import Forecast, Found, margins
from nacdeploy.forecasts.losses import Rehearsal, Source
from nacdeploy.forecasts.plan import Wish, planned
from nacdeploy.forecasts.ranges import Range, around
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import to_apply
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.trials.evaluator import figures_of

PROFILE = """
name = "transfers"
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
BLIND = (Network("resnet8", 24, "digits"), Network("resnet8", 12, "fashion-mnist"))  # made when every constant stood


@dataclass(frozen=True)
class Row:
    """A chain on a network: what was told, what came out, the baseline's time, and the seconds of the training."""

    told: Forecast
    found: Found
    figures: Figures
    baseline_ms: float
    seconds: float

    @property
    def rehearsal(self) -> Rehearsal:
        """What the rehearsal lost."""
        found = self.told.rehearsal
        assert found is not None
        return found


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
        source = Source(self.there.figures.drop_points, self.there.rehearsal)
        return losses.to_come(self.here.rehearsal, self.here.figures.n_images, source)

    @property
    def drop_known_alone(self) -> Range:
        """The drop as it is told where the source's run records its drop and no rehearsal."""
        return losses.to_come(self.here.rehearsal, self.here.figures.n_images, Source(self.there.figures.drop_points))

    @property
    def drop_unknown(self) -> Range:
        """The drop as it is told where nothing is known of the source."""
        return losses.to_come(self.here.rehearsal, self.here.figures.n_images, None)

    @property
    def ms(self) -> Range:
        """The time that was told."""
        assert self.here.told.latency_ms is not None
        return around(self.here.told.latency_ms.value, self._margins[2])

    @property
    def size_bytes(self) -> Range:
        """The size that was told."""
        return around(self.here.told.size_bytes.value, self._margins[0])

    @property
    def bitops(self) -> Range:
        """The BitOps that were told."""
        return around(self.here.told.bitops.value, self._margins[1])

    @property
    def _margins(self) -> tuple[float, float, float]:
        profile = profiles.from_mapping(tomllib.loads(self.network.profile))
        return margins(Chain.parse(self.chain), profile, has_exits=False)

    @property
    def ms_as_there(self) -> float:
        """The time if the chain were as many times faster as at the source."""
        return self.here.baseline_ms / (self.there.baseline_ms / (self.there.found.latency_ms or 1.0))

    @property
    def bytes_as_there(self) -> float:
        """The size if the chain made it as many times smaller as at the source."""
        return self.here.found.size_bytes * self.here.figures.bytes_ratio / self.there.figures.bytes_ratio

    @property
    def line(self) -> str:
        """A row of the table."""
        drop, ms, size, found = self.drop, self.ms, self.size_bytes, self.here.found
        cells = (
            str(self.number),
            str(self.network),
            f"`{self.chain}`",
            f"{drop.value:.2f} ({drop.low:.2f} to {drop.high:.2f})",
            f"{found.drop:.2f}",
            f"{self.there.found.drop:.2f}",
            f"{ms.value:.4f} ({ms.low:.4f} to {ms.high:.4f})",
            f"{found.latency_ms or 0.0:.4f}",
            f"{self.ms_as_there:.4f}",
            f"{size.value / 1000:.1f}",
            f"{found.size_bytes / 1000:.1f}",
            f"{self.bytes_as_there / 1000:.1f}",
        )
        return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path("bench-run/transfers"))
    run = parser.parse_args().run
    torch.set_num_threads(1)
    there = dict(zip(CHAINS, _rows(SOURCE, run), strict=True))
    transfers: list[Transfer] = []
    for network in (*OTHERS, *BLIND):
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
    print(f"{session.task.spec.name} {chain}: {row.rehearsal.lost:.2f} rehearsed, {found.drop:.2f} found", flush=True)
    return row


def print_table(transfers: Sequence[Transfer]) -> None:
    """Print every transfer, then what all of them say together."""
    print(
        "| | network | chain | drop told | found | as there | ms told | found | as there | KB told | found | as there |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for each in transfers:
        print(each.line)
    seen = [each for each in transfers if each.network in OTHERS]
    blind = [each for each in transfers if each.network in BLIND]
    first, second = (
        [each for each in seen if (each.number // len(CHAINS) + each.number) % 2 == half] for half in (0, 1)
    )
    print(
        "\n| | five networks | first half (constants chosen) | second half | two more, blind |\n|---|---|---|---|---|"
    )
    for name, figure in FIGURES.items():
        print(f"| {name} | {' | '.join(figure(part) for part in (seen, first, second, blind))} |")
    told = sum(each.here.told.seconds for each in transfers)
    print(f"\n{told:.0f} s of forecasts, {sum(each.here.seconds for each in transfers):.0f} s of the chains themselves")


def _inside(part: Sequence[Transfer], told: Callable[[Transfer], Range], found: Callable[[Transfer], float]) -> str:
    return f"{sum(told(each).holds(found(each)) for each in part)} of {len(part)}"


def _error(part: Sequence[Transfer], told: Callable[[Transfer], float], found: Callable[[Transfer], float]) -> float:
    return mean(abs(told(each) - found(each)) for each in part)


def _of_drop(part: Sequence[Transfer], told: Callable[[Transfer], Range]) -> str:
    width = median(told(each).high - told(each).low for each in part)
    inside, error = _inside(part, told, _found), _error(part, lambda each: told(each).value, _found)
    return f"{inside} inside, width {width:.2f}, error {error:.2f}"


def _of_time(part: Sequence[Transfer]) -> str:
    inside = _inside(part, lambda each: each.ms, lambda each: each.here.found.latency_ms or 0.0)
    width = median((each.ms.high - each.ms.low) / each.ms.value for each in part)
    return f"{inside} inside, width {100 * width:.0f} %, error {100 * _off(part, lambda each: each.ms.value):.1f} %"


def _off(part: Sequence[Transfer], told: Callable[[Transfer], float]) -> float:
    return mean(abs(told(each) / (each.here.found.latency_ms or 1.0) - 1) for each in part)


def _of_size(part: Sequence[Transfer]) -> str:
    inside = _inside(part, lambda each: each.size_bytes, lambda each: each.here.found.size_bytes)
    error = mean(abs(each.size_bytes.value / each.here.found.size_bytes - 1) for each in part)
    return f"{inside} inside, error {100 * error:.1f} %"


def _of_bitops(part: Sequence[Transfer]) -> str:
    inside = _inside(part, lambda each: each.bitops, lambda each: each.here.found.bitops)
    error = mean(abs(each.bitops.value / each.here.found.bitops - 1) for each in part)
    return f"{inside} inside, error {100 * error:.1f} %"


def _found(each: Transfer) -> float:
    return each.here.found.drop


FIGURES: dict[str, Callable[[Sequence[Transfer]], str]] = {
    "drop, points": lambda part: _of_drop(part, lambda each: each.drop),
    "drop, of a search's record": lambda part: _of_drop(part, lambda each: each.drop_known_alone),
    "drop, nothing recorded": lambda part: _of_drop(part, lambda each: each.drop_unknown),
    "drop as there": lambda part: f"error {_error(part, lambda each: each.there.found.drop, _found):.2f}",
    "time": _of_time,
    "time as there": lambda part: f"error {100 * _off(part, lambda each: each.ms_as_there):.1f} %",
    "size": _of_size,
    "size as there": lambda part: f"error {100 * _size_off(part):.1f} %",
    "BitOps": _of_bitops,
}


def _size_off(part: Sequence[Transfer]) -> float:
    return mean(abs(each.bytes_as_there / each.here.found.size_bytes - 1) for each in part)


if __name__ == "__main__":
    main()

"""result.json: the results of a command."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nacdeploy.base import html, records
from nacdeploy.forecasts.forecast import Forecast, Found
from nacdeploy.metrics import DEFAULT, scored
from nacdeploy.network.served import served
from nacdeploy.reports.figures import Pictures
from nacdeploy.results.run_material import dense_answer, material
from nacdeploy.results.run_page import page_of, summary_rows, title_of
from nacdeploy.sessions.session import Scores
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps import follow as transferring
from nacdeploy.trials.dense import Candidate
from nacdeploy.trials.final import LatencyReport

RESULT_FILE = "result.json"


@scored
@dataclass(frozen=True)
class FrontMember:
    """A chain of the Pareto front of a search; `search --resume RUN --pick NUMBER` makes it the answer. Its
    figures are counted, and where speed matters timed, in full on the validation split."""

    number: int
    chain: str
    drop: float
    figures: Figures
    metric: str = DEFAULT


@dataclass(frozen=True)
class Result:
    """The results of a command: result.json. Ratios are analytic except the speed, scores are on the test split.

    `candidates` are the networks within the time of a search by time, the answer first: a dense one may be it.
    `forecast` is what was told before a transfer trained, `found` what came out on the same scales.
    """

    kind: str
    folder: str
    checkpoint: str
    baseline_checkpoint: str
    model: str
    data: str
    profile: str
    chain: str
    figures: Figures
    scores: Scores
    n_epochs: int
    seconds: float
    skipped: tuple[transferring.Refusal, ...] = ()
    n_evaluations: int = 0
    n_trainings: int = 0
    front: tuple[FrontMember, ...] = ()
    latency: LatencyReport | None = None
    candidates: tuple[Candidate, ...] = ()
    forecast: Forecast | None = None
    found: Found | None = None
    schema: int = records.SCHEMA_VERSION

    @property
    def answer(self) -> str:
        """The name of the answer: the chain, or a smaller dense network."""
        own = dense_answer(self)
        return self.chain if own is None else own.name

    @property
    def network(self) -> nn.Module:
        """The compressed network in evaluation mode, read from the checkpoint: a module that takes normalised images
        (N, C, H, W) and returns its outputs (N, K), or takes and returns what the network of one's own task does.

        Raises:
            UsageError: the checkpoint is gone or damaged.
        """
        state, _ = checkpoints.load(Path(self.checkpoint))
        return served(state.network)

    def plot(self) -> Pictures:
        """Draw the pictures of the report, which a notebook shows: of a search the front, the chain letter by letter
        and the tree; the layers before and after.

        Raises:
            UsageError: the run's folder is gone.
        """
        return Pictures(tuple(page_of(material(Path(self.folder), self)).panels))

    def _repr_html_(self) -> str:
        """Return the scores and ratios as a table, for notebooks."""
        return html.table(title_of(self), ("figure", "value"), summary_rows(self.figures, self.scores))

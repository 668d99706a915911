"""The names of scores in files, by metric. `accuracy` keeps its name in every file of every version.

A record marked `scored` has a field `metric`, the name of a metric, and fields whose names hold the word `score` or
`drop`. In a file these words read as the metric's name (`score` -> `accuracy`, `baseline_score` -> `baseline_mae`) and
unit (`drop` -> `drop_points`, of other metrics `drop_mae`). A file that names no metric holds accuracies.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import model_serializer, model_validator

DEFAULT = "accuracy"
SCHEMAS = (1, 2)
T = TypeVar("T")


def schema(metric: str) -> int:
    """Return the schema of records that hold a score of this metric; schema 1 always holds accuracies."""
    return SCHEMAS[0] if metric == DEFAULT else SCHEMAS[1]


def spelled(key: str, metric: str) -> str:
    """Return the name of a field in a file; of a task's own metric its name counts, without direction and unit."""
    metric = metric.partition(":")[0]
    if key == "drop":
        return "drop_points" if metric == DEFAULT else f"drop_{metric}"
    parts = [metric if part == "score" else part for part in key.split("_")]
    return "_".join(parts)


def scored(kind: type[T]) -> type[T]:
    """Mark a dataclass whose scores a file holds under the name of their metric."""
    fields = tuple(kind.__dataclass_fields__)  # type: ignore[attr-defined]

    def read(cls: Any, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        metric = str(data.get("metric", DEFAULT))
        by_key = {spelled(name, metric): name for name in fields}
        return {by_key.get(key, key): value for key, value in data.items()}

    def written(self: Any, serialize: Any) -> Any:
        data = {spelled(key, self.metric): value for key, value in serialize(self).items()}
        if self.metric == DEFAULT:
            del data["metric"]
        return data

    marked: Any = kind  # pydantic looks for these on the class
    marked._read_scores = model_validator(mode="before")(classmethod(read))  # type: ignore[arg-type]
    marked._written_scores = model_serializer(mode="wrap")(written)
    return kind

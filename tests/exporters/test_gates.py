"""Gates: requirements read, and judged on made-up tables."""

from dataclasses import replace

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Latency, Ratio
from nacdeploy.exporters import gates
from nacdeploy.exporters.bench import Row, Table
from nacdeploy.exporters.gates import GateError, Requirement
from nacdeploy.metrics import named


def a_row(artifact: str, *, score: float, speed: float = 1.0, batch: int = 1, metric: str = "accuracy") -> Row:
    p50_ms = 10 / speed
    return Row(
        artifact=artifact,
        chain="Q",
        target="ort",
        score=score,
        n_images=100,
        model_bytes=500_000,
        size_ratio=4.0,
        latency=Latency(p50_ms, 1.5 * p50_ms, 1.1 * p50_ms, 1000 * batch / p50_ms, 50, batch, 1),
        speed=Ratio(speed, 0.9 * speed, 1.1 * speed),
        runtime="ONNX Runtime",
        metric=metric,
    )


BASELINE = a_row("float", score=0.90)
TABLE = Table("float", "a machine", "ONNX Runtime", (BASELINE, a_row("a", score=0.885, speed=2.0)))


def judged(*requirements: str, table: Table = TABLE) -> str:
    """What is said of misses; "" if the table holds the requirements."""
    try:
        gates.judge(table, gates.parsed(requirements))
    except GateError as error:
        assert error.table is table
        assert error.exit_code == 1
        return str(error)
    return ""


@pytest.mark.parametrize(
    "requirement",
    [
        *("speedup>=2", "speedup_low>1.7", "speedup_high < 2.3", "drop<=1.5", "drop>=1.5", "drop > -1"),
        *("p50_ms<=5", "p90_ms<=7.5", "mean_ms<=5.51", "throughput_per_s>=200", "size_kib<=489", "size_mb<=0.5"),
        *("size_mib<=0.477", "size_ratio>=4", "score>=88.4", "ms<=5"),
    ],
)
def test_requirement_holds_in_the_units_of_the_table(requirement: str) -> None:
    assert judged(requirement) == ""


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("speedup>2", "a at batch 1: speedup is 2, > 2 is required"),
        ("drop<=1", "a at batch 1: drop is 1.5, <= 1 is required"),
        ("score>=90", "score is 88.5, >= 90 is required"),
        ("size_mb<0.5", "size_mb is 0.5, < 0.5 is required"),
        ("device_ms<=5", "device_ms was not measured"),
        ("device_speedup>=0", "device_speedup was not measured"),
    ],
)
def test_miss_is_named_with_its_figure(requirement: str, said: str) -> None:
    assert said in judged(requirement, "ms<=5")
    assert judged(requirement, "ms<=5").startswith("1 of 2 requirements are missed: ")


def test_every_miss_of_every_artifact_and_batch_is_in_one_line() -> None:
    more = (replace(BASELINE, latency=replace(BASELINE.latency, batch_size=8)), a_row("b", score=0.5, batch=8))
    said = judged("speedup>=1.5", "drop<=1", table=replace(TABLE, rows=(*TABLE.rows, *more)))
    assert "\n" not in said
    assert said == (
        "3 of 4 requirements are missed: a at batch 1: drop is 1.5, <= 1 is required; b at batch 8: speedup is 1, "
        ">= 1.5 is required; b at batch 8: drop is 40, <= 1 is required"
    )


def test_drop_is_that_of_an_error_which_grows_where_less_is_better() -> None:
    rows = (a_row("float", score=0.30, metric="mae"), a_row("a", score=0.35, metric="mae"))
    table = replace(TABLE, rows=rows)
    assert judged("drop<=0.06", table=table) == ""
    assert "drop is 0.05, <= 0.04" in judged("drop<=0.04", table=table)


def test_score_that_is_no_number_misses_every_bound() -> None:
    table = replace(TABLE, rows=(BASELINE, a_row("a", score=float("nan"))))
    assert judged("score>=1.5", "score<=100", "drop<=100", table=table).startswith("3 of 3")


def test_no_requirement_is_held_by_every_table() -> None:
    assert judged() == ""
    gates.judge(replace(TABLE, rows=(BASELINE,)), ())


def test_baseline_alone_is_refused_since_nothing_is_judged() -> None:
    with pytest.raises(UsageError, match="has no artifact to judge"):
        gates.judge(replace(TABLE, rows=(BASELINE,)), gates.parsed("speedup>=1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed_up>=1", "unknown figure in --require 'speed_up'; did you mean 'speedup'?"),
        ("speedup=>1", "'=>' is no comparison; known: >= <= > <"),
        ("speedup==1", "'==' is no comparison"),
        ("speedup", "it has no comparison"),
        ("speedup>=fast", "'fast' is no finite number"),
        ("speedup>=", "'' is no finite number"),
        ("speedup>=nan", "'nan' is no finite number"),
        ("drop<=inf", "'inf' is no finite number"),
        ("1.2<=speedup", "it names no figure"),
        ("", "it names no figure"),
        ("drop<=1%", "'1%' is no finite number"),
    ],
)
def test_requirement_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        gates.parse(text)
    assert said in str(refused.value)
    assert refused.value.exit_code == 2


def test_one_text_is_one_requirement() -> None:
    assert gates.parsed("drop <= 1e0") == (Requirement("drop", "<=", 1.0),)


def test_fraction_is_refused_as_the_bound_of_a_score_in_percent() -> None:
    for name in ("accuracy", "agreement", "f1"):
        with pytest.raises(UsageError, match="write 'score>=97'"):
            gates.check(gates.parsed("score>=0.97"), named(name))
    gates.check(gates.parsed(["score>=97", "drop<=0.5"]), named("accuracy"))
    gates.check(gates.parsed("score<=0.5"), named("mae"))

"""Expected values: NAC's reward formula, and the published search logs of doctorcoal/NAC (MIT)."""

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.search import FIGURES, SearchTable
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures, NacWeights, make, nac_rewards, nac_warmup
from nacdeploy.strategies.search.search_result import result_of

# (baseline, past, now, raw terms); points are (accuracy, BitOps ratio with exits, memory ratio).
RAW = [
    (93.8, (93.8, 1, 1), (93.8, 16, 4), (0.0, 0.0, 0.0, 15.0, 3.0)),
    (93.8, (93.8, 16, 4), (93.5, 32, 8), (0.0, -0.3785116232537266, 0.0, 15.897654584221748, 3.974413646055437)),
    (93.8, (93.5, 57.248, 8), (93.8, 268.8, 32), (0.0, 0.3785116232537266, 0.0, 211.7350959488273, 24.02558635394456)),
    (93.8, (73.8, 57.248, 8), (92.8, 268.8, 32), (0.0, 3.3923174227787607, 0.0, 220.89272494669513, 25.36460554371002)),
    (93.8, (94.6, 16, 4), (95.5, 32, 8), (0.0, 0.0, 0.0, 16.44349680170576, 4.11087420042644)),
    (77.5, (77.2, 32, 8), (77.5, 32.96, 8.2), (0.0, 0.3785116232537266, 0.0, 1.0838709677419338, 0.23096774193548253)),
    (77.5, (77.5, 57.248, 8), (78.3, 268.8, 32), (0.0, 0.5804820237218354, 0.0, 214.3267096774194, 24.33032258064516)),
    (55.4, (55.4, 32, 8), (55.1, 48.0, 8), (0.0, -0.3785116232537266, 0.0, 15.740072202166068, -0.0433212996389889)),
    (55.4, (55.4, 57.248, 8), (0.0, 268.8, 32), (0.0, -5.817623257511432, 0.0, -57.248, -8.0)),
    (55.4, (48.4, 32, 8), (24.4, 48.0, 8), (0.0, -2.0, 0.0, -6.815884476534297, -3.4657039711191335)),
]

# (baseline, accuracy weight, past, now, weighted accuracy, BitOps and memory terms): two rows of each of the nine logs,
# in the order ResNet34 on CIFAR-10, CIFAR-100, Tiny-ImageNet, then MobileNetV2 and DeiT-tiny on the same three.
LOGGED = [
    (93.8, 22.5, (93.0, 47.76133208534675, 14.280924235572826), (83.8, 86.9077981974478, 28.56184847114565),
     (-58.757281021852876, 42.404023955356394, 7.950424984878602)),
    (93.8, 22.5, (93.0, 3.333264106557318, 3.5702310588932065), (92.9, 53.32068124211014, 14.280924235572826),
     (-1.7550565200285515, 69.30593620122688, 7.422883380654085)),
    (78.2, 15.0, (47.3, 18.202421245345413, 4.113042779408142), (76.3, 19.918464732309975, 4.113042779408142),
     (51.89147427955942, 11.794450995378236, 1.0677080360867686)),
    (78.2, 15.0, (70.8, 45.11324683076875, 9.470901720789712), (62.9, 44.929336466408614, 9.751024810729321),
     (-14.346160971784741, -6.587565941609401, -0.5120238729658071)),
    (71.25, 15.0, (66.6, 16.99501047164534, 4.100663566217034), (46.8, 37.38327759148114, 8.201327132434068),
     (-32.570143254907585, 12.136667669019408, 1.0877549670386235)),
    (71.25, 15.0, (47.75, 17.668400294179687, 4.212604034813682), (69.85, 17.448698692276523, 4.212604034813682),
     (50.27513157422117, 7.37088681335872, 0.9146524128921778)),
    (94.8, 22.5, (92.4, 2.911986017973389, 1.0300085785233952), (80.7, 2.6518719460627365, 1.0584176989400462),
     (-48.39619270668172, -0.8131436584268953, -0.07205631904820661)),
    (94.8, 22.5, (63.6, 116.4727025264278, 8.467341591520372), (90.5, 109.29070190626048, 8.467341591520372),
     (58.56741952990693, 36.67091243217378, 1.6818569848979807)),
    (77.5, 22.5, (75.0, 2.4945003603819345, 1.0), (75.5, 39.56082826411739, 4.0),
     (5.0038294800700776, 50.57621947970458, 2.0503225806451613)),
    (77.5, 22.5, (57.0, 2.2474510120447047, 1.0209522533484503), (74.5, 2.471696478725409, 1.0209522533484503),
     (54.5909569807972, 1.0122755092889386, 0.16137632391636797)),
    (69.2, 22.5, (13.35, 112.15782585353342, 8.0), (66.3, 69.38485226638477, 8.0),
     (86.97632220067496, 62.77561014686842, 4.284971098265895)),
    (69.2, 22.5, (69.2, 1.0, 1.0), (56.2, 1.824338707220518, 1.0247767902711025),
     (-85.66548574629608, 0.6742625647992825, -0.11741735651350911)),
    (90.9, 11.25, (90.8, 32.11261895467404, 8.0), (91.1, 32.978164212380925, 8.18741573055816),
     (2.4523374090575425, 1.3628046438822863, 0.14996150866549865)),
    (90.9, 11.25, (88.7, 45.53111381010151, 11.013820398128576), (86.8, 46.7472772107144, 11.26841515074035),
     (-7.564785097179338, 0.2934588966733585, 0.009029659396921373)),
    (70.6, 11.25, (69.3, 1.0259092345804244, 1.0229050735198753), (70.0, 16.41454775328679, 4.091620294079501),
     (5.890072005641433, 21.375240309959104, 2.1369443242697788)),
    (70.6, 11.25, (70.6, 1.0, 1.0), (70.0, 1.0235082793290562, 1.0),
     (-7.6283089325171165, 0.020733872156480437, -0.005949008498583519)),
    (55.4, 11.25, (55.4, 0.9983361064891847, 1.0), (54.95, 16.392605637109718, 4.0),
     (-6.030595127702312, 21.365563235443133, 2.077256317689531)),
    (55.4, 11.25, (49.25, 16.83189648409068, 4.1798165607051025), (57.75, 16.83189648409068, 4.1798165607051025),
     (38.45728423814476, 3.6155156707703804, 0.44891531653782213)),
]  # fmt: skip


def figures(drop: float = 0.0, bitops: float = 1.0, memory: float = 1.0, baseline: float = 0.938) -> Figures:
    return Figures(baseline - drop / 100, baseline, bitops, 2.0, 3.0, bitops, memory, speed_ratio=1.5)


@pytest.mark.parametrize(("baseline", "past", "now", "raw"), RAW)
@pytest.mark.parametrize("weight", [11.25, 22.5])
def test_raw_and_weighted_terms_follow_the_formula(
    baseline: float, past: tuple, now: tuple, raw: tuple, weight: float
) -> None:
    reward = nac_rewards(baseline, past, now, NacWeights(accuracy=weight))
    expected = (0.0, weight * raw[1], 0.0, 1.4 * raw[3], 0.7 * raw[4])
    assert reward.raw == pytest.approx(raw, abs=1e-9)
    assert reward.weighted == pytest.approx(expected, abs=1e-9)
    assert reward.total == pytest.approx(sum(expected))


@pytest.mark.parametrize(("baseline", "weight", "past", "now", "terms"), LOGGED)
def test_rewards_replay_the_published_logs(
    baseline: float, weight: float, past: tuple, now: tuple, terms: tuple
) -> None:
    weighted = nac_rewards(baseline, past, now, NacWeights(accuracy=weight)).weighted
    assert (weighted.ar, weighted.br, weighted.mr) == pytest.approx(terms, abs=1e-6)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (100, 0.145), (1000, 0.55), (2000, 1.0), (9000, 1.0)])
def test_warmup_ramps_the_accuracy_term(step: int, factor: float) -> None:
    assert nac_warmup(step) == pytest.approx(factor)


def test_nac_score_is_the_sum_of_rewards_along_any_path() -> None:
    path = [(93.8, 1.0, 1.0), (93.1, 16.0, 4.0), (80.0, 32.0, 8.0), (92.9, 32.0, 8.0), (94.9, 45.7, 8.2)]
    objective = make(SearchTable(objective="nac"))
    total = sum(nac_rewards(93.8, past, now, NacWeights()).total for past, now in pairwise(path))
    end = figures(93.8 - path[-1][0], path[-1][1], path[-1][2])
    assert objective.score(end) == pytest.approx(total)
    assert objective.score(figures()) == pytest.approx(0.0)


def test_nac_score_uses_the_accuracy_weight_of_the_profile() -> None:
    heavy, light = (make(SearchTable(objective="nac", nac_accuracy_weight=w)) for w in (22.5, 11.25))
    assert light.score(figures(3.0)) - heavy.score(figures(3.0)) == pytest.approx(11.25 * math.log2(4.0))


@pytest.mark.parametrize(("figure", "expected"), [("bitops", 7.0), ("macs", 2.0), ("bytes", 3.0), ("speed", 1.5)])
def test_budget_score_is_the_named_ratio(figure: Any, expected: float) -> None:
    assert make(SearchTable(figure=figure)).score(figures(bitops=7.0)) == expected


EVERY = [
    {"objective": "nac"},
    {"objective": "latency"},
    *({"objective": "budget", "figure": figure} for figure in FIGURES),
    {"objective": "pareto"},
    {"objectives": ["accuracy", "latency", "bytes"]},
    {"objectives": ["macs", "bytes"]},
]


@pytest.mark.parametrize("table", EVERY, ids=str)
def test_a_destroyed_model_is_never_admissible(table: dict[str, Any]) -> None:
    objective = make(SearchTable(max_drop=1.0, **table))
    destroyed = figures(80.0, bitops=128.0, memory=32.0)
    assert not objective.admissible(destroyed)
    assert not objective.admissible(figures(math.nan))
    assert not objective.admissible(figures(1.001))
    assert objective.admissible(figures(-2.0))


RATIO = st.floats(1e-3, 1e6)


@pytest.mark.parametrize("table", EVERY, ids=str)
@settings(max_examples=60, deadline=None)
@given(
    ratios=st.tuples(*[RATIO] * 6),
    luck=st.floats(-0.05, 0.05),
    max_drop=st.sampled_from([0.0, 1.0, 50.0, 100.0]),
    n_classes=st.sampled_from([2, 10, 100]),
)
def test_a_model_at_chance_never_wins_whatever_its_ratios_and_the_budget(
    table: dict[str, Any], ratios: tuple[float, ...], luck: float, max_drop: float, n_classes: int
) -> None:
    objective, chance = make(SearchTable(max_drop=max_drop, **table)), 1 / n_classes
    *analytic, speed = ratios
    destroyed = Figures(
        max(0.0, chance + luck * (0.9 - chance)), 0.9, *analytic, speed, speed, speed, chance_score=chance
    )
    sound = Figures(0.9, 0.9, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, chance_score=chance)
    rows = tuple(
        Evaluation(chain, chain, each)
        for chain, each in (("", replace(sound, speed_ratio=1.0)), ("P", destroyed), ("Q", sound))
    )
    assert not objective.admissible(destroyed)
    objective.note(destroyed)
    found = result_of(rows, objective)
    assert found.best is not None
    assert found.best.chain == "Q"
    assert [e.chain for e in found.front] == ["Q"]


@pytest.mark.parametrize("table", EVERY, ids=str)
@pytest.mark.parametrize("accuracy", [math.nan, math.inf, -math.inf, -0.1, 1.5])
def test_what_is_no_accuracy_wins_nothing(table: dict[str, Any], accuracy: float) -> None:
    objective = make(SearchTable(max_drop=100.0, **table))
    assert not objective.admissible(Figures(accuracy, 0.9, 9, 9, 9, 9, 9, 9, 9, 9))


@pytest.mark.parametrize("table", [{"objective": "latency"}, {"objectives": ["accuracy", "latency"]}], ids=str)
def test_a_model_that_was_not_timed_does_not_win_on_speed(table: dict[str, Any]) -> None:
    assert not make(SearchTable(**table)).admissible(replace(figures(), speed_ratio=None))


def test_speed_counts_by_the_lower_end_of_its_interval() -> None:
    objective = make(SearchTable(objective="latency"))
    lucky, steady = (replace(figures(), speed_ratio=r, speed_low=low) for r, low in ((2.2, 1.5), (2.0, 1.9)))
    assert objective.worth(steady) > objective.worth(lucky)


def test_pareto_score_rises_by_the_volume_gained_and_by_nothing_else() -> None:
    objective = make(SearchTable(objective="pareto", max_drop=2.0))
    start = objective.score(figures())
    objective.note(figures())
    assert objective.score(figures()) == pytest.approx(start)
    assert objective.score(figures(1.0)) == pytest.approx(start), "dominated"
    wider = objective.score(figures(1.0, bitops=8.0))
    assert wider > start
    objective.note(figures(1.0, bitops=8.0))
    assert objective.score(figures()) == pytest.approx(wider)
    objective.note(figures(60.0, bitops=999.0))
    assert objective.score(figures()) == pytest.approx(wider), "not admissible"


def test_a_drop_equal_to_the_limit_is_admissible_despite_rounding() -> None:
    exact = Figures(0.94, 0.95, 1, 1, 1, 1, 1)
    assert exact.drop_points > 1.0
    assert make(SearchTable(max_drop=1.0)).admissible(exact)


def test_unknown_objective_names_the_known_ones() -> None:
    table = cast(SearchTable, SimpleNamespace(objective="budge"))
    with pytest.raises(UsageError, match=r"unknown objective 'budge'; did you mean 'budget'\?"):
        make(table)

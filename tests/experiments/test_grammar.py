"""EXPERIMENT.json: what is understood, what is ignored by name, what is refused, all of it at once."""

from typing import Any

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.experiments.config import grammar, vocabulary


def experiment(compression: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    entries = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
    table = {"framework": "torch", "type": "pruning", "compressor": "l1_filter", "config_list": entries}
    return {"name": "e", "script": None, "resource": "cpu", "compression": {**table, **(compression or {})}, **more}


def test_old_experiment_is_read_whole() -> None:
    read = grammar.read(
        experiment(
            proposer="spearmint",
            n_samples=4,
            n_parallel=2,
            target="min",
            random_seed=3,
            job_failure={"job_retries": 2, "ignore_fail": True},
            resource_args={"save_model": True, "early_stop": {"aup_policy": "median", "warmup": 2}},
        )
    )
    made = read.experiment
    assert (made.compression.compressor, made.proposer, made.target, made.random_seed) == ("l1", "gp", "min", 3)
    assert made.job_failure.job_retries == 2
    assert made.resource_args.early_stop is not None
    assert read.ignored == ("the early end by resource_args.early_stop (of metric 'accuracy' and n_parallel 1 alone)",)


@pytest.mark.parametrize(
    ("old", "ours"),
    [
        ("l2_filter", "l2"),
        ("activation_apoz_rank_filter", "apoz"),
        ("activation_mean_rank_filter", "mean-activation"),
        ("taylor_fo_weight_filter", "taylor"),
        ("net_adapt", "netadapt"),
        ("simulated_annealing", "simulated-annealing"),
        ("lottery_ticket", "lottery-ticket"),
        ("auto_compress", "auto-compress"),
        ("bnn", "binary"),
        ("L1FilterPruner", "l1"),
        ("QAT_Quantizer", "qat"),
    ],
)
def test_old_name_of_a_compressor_is_known(old: str, ours: str) -> None:
    assert vocabulary.compressor(old).name == ours


def test_every_problem_is_told_at_once() -> None:
    entries = [{"sparsity": 1.0, "op_name": ["a"]}, {"op_names": ["b"]}]
    data = experiment({"config_list": entries, "type": "quantization"}, n_sample=3, target="up", proposer="eas")
    with pytest.raises(UsageError) as caught:
        grammar.read(data, "bad.json")
    said = str(caught.value)
    assert said.startswith("bad.json: ")
    for part in (
        "unknown key 'n_sample'; did you mean 'n_samples'?",
        "target",
        "unknown proposer 'eas'",
        "config_list.0.sparsity: Input should be less than 1 (given: 1.0)",
        "unknown key 'op_name' of 'l1'; did you mean 'op_names'?",
        "config_list.1: 'sparsity' is missing",
        "compressor 'l1' is of type pruning, not quantization",
    ):
        assert part in said
    assert "\n" not in said


def test_old_keys_without_meaning_are_listed_as_ignored() -> None:
    entries = [{"sparsity": 0.5, "activation": "relu"}]
    stop = {"aup_policy": "curve_fitting"}
    read = grammar.read(
        experiment(
            {"config_list": entries, "statistics_batch_num": 1},
            engine=1,
            resource_args={"multi_res_labels": ["a"], "early_stop": stop},
        )
    )
    assert {"engine", "resource_args.multi_res_labels", "compression.statistics_batch_num"} <= set(read.ignored)
    assert "compression.config_list.0.activation" in read.ignored
    assert any("curve_fitting" in name for name in read.ignored)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"sparsity": 0.5, "op_names": ["a"]}, {"sparsity": 0.8, "op_names": ["a"]}], "both name layer 'a'"),
        ([{"sparsity": 0.5, "op_names": ["a"]}, {"exclude": True, "op_names": ["a"]}], "one excludes it"),
        ([{"sparsity": 0.5, "exclude": True, "op_names": ["a"]}, {"sparsity": 0.1}], "'exclude' is true"),
        ([{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"sparsity": 0.8, "op_types": ["Conv2d"]}], "type 'Conv2d'"),
        ([{"sparsity": 0.5, "op_names": ["a", "a"]}], "named twice"),
        ([{"exclude": True, "op_names": ["a"]}], "every entry excludes"),
    ],
)
def test_contradicting_entries_are_refused(entries: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grammar.read(experiment({"config_list": entries}))


def test_names_override_types_without_contradiction() -> None:
    entries = [
        {"sparsity": 0.8, "op_types": ["Conv2d"]},
        {"sparsity": 0.6, "op_names": ["conv1", "conv2"]},
        {"exclude": True, "op_names": ["conv3"]},
    ]
    assert len(grammar.read(experiment({"config_list": entries})).experiment.expanded) == 4


@pytest.mark.parametrize("given", [-0.1, 1, 1.0, "0.5", None, True, [0.5]])
def test_sparsity_outside_its_range_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"config_list\.0\.sparsity"):
        grammar.read(experiment({"config_list": [{"sparsity": given}]}))


def test_range_is_checked_against_its_key() -> None:
    bits = {"weight": {"range": [4, 16], "type": "int"}}
    table = {"type": "quantization", "compressor": "qat", "config_list": [{"quant_bits": bits}]}
    with pytest.raises(UsageError, match=r"config_list\.0\.quant_bits\.weight\.range.*given: 16"):
        grammar.read(experiment(table))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "one JSON object"),
        ({}, "compression is missing"),
        ({"compression": {"config_list": []}}, "compressor is missing"),
        ({"compression": {"compressor": "l1"}}, "config_list is missing"),
        ({"compression": {"compressor": "l3", "config_list": []}}, "unknown compressor 'l3'"),
        (experiment({"framework": "tensorflow"}), "known: torch"),
    ],
)
def test_malformed_experiment_is_refused(data: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grammar.read(data)


@pytest.mark.parametrize(("table", "said"), [
    ({"compressor": "sensitivity", "sparsity_per_iter": 0}, "sparsity_per_iter.*greater than 0"),
    ({"compressor": "sensitivity", "max_sparsity_per_iter": 0}, "max_sparsity_per_iter.*greater than 0"),
    ({"compressor": "sensitivity", "ratios": []}, "ratios.*at least 1 item"),
    ({"compressor": "netadapt", "sparsity_per_iteration": 0}, "sparsity_per_iteration.*greater than 0"),
    ({"compressor": "naive", "config_list": [{"quant_bits": 1}]}, "quant_bits.*greater than or equal to 2"),
])  # fmt: skip
def test_value_that_would_do_nothing_or_another_thing_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grammar.read({"compression": {"config_list": [{"sparsity": 0.3}], **table}})


def test_binary_weights_may_be_called_one_bit() -> None:
    grammar.read({"compression": {"compressor": "binary", "config_list": [{"quant_bits": 1}]}})


def test_share_that_amc_does_not_read_is_ignored_with_its_range() -> None:
    entries = [{"sparsity": {"range": [0.1, 0.5], "type": "float"}, "op_types": ["Conv2d"]}]
    read = grammar.read({"compression": {"compressor": "amc", "config_list": entries}})
    assert read.ignored == ("compression.config_list.0.sparsity",) and not read.experiment.spaces


@pytest.mark.parametrize("table", [{"metric": "bitops_ratio"}, {"n_parallel": 2}])
def test_early_end_that_nothing_watches_is_said(table: dict[str, Any]) -> None:
    stop = {"early_stop": {"aup_policy": "median"}}
    assert grammar.read(experiment(resource_args=stop, proposer="asha")).ignored == ()
    ignored = grammar.read(experiment(resource_args=stop, proposer="asha", **table)).ignored
    assert [line.partition(" (")[0] for line in ignored] == [
        "the early end by resource_args.early_stop",
        "the early end by proposer 'asha'",
    ]


def test_settings_of_the_run_may_stand_in_an_entry_or_beside_them() -> None:
    one = {"compressor": "agp", "config_list": [{"final_sparsity": 0.8, "end_epoch": 5}]}
    other = {"compressor": "agp", "config_list": [{"final_sparsity": 0.8}], "end_epoch": 5}
    read = [grammar.read(experiment(table)).experiment.compression for table in (one, other)]
    assert read[0] == read[1]
    assert read[0].settings == {"end_epoch": 5}


def test_proposal_leaves_the_experiment_as_it_is() -> None:
    entries = [{"sparsity": {"range": [0.1, 0.9], "type": "float"}, "op_names": ["a", "b"]}]
    made = grammar.read(experiment({"config_list": entries})).experiment
    before = made.model_dump()
    filled = made.filled({"0.sparsity": 0.3, "1.sparsity": 0.7})
    assert [entry["sparsity"] for entry in filled.config_list] == [0.3, 0.7]
    assert made.model_dump() == before

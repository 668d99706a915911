"""The words of an experiment: compressors with the keys that they take, proposers, and the old system's names for both.

No torch here: a file is checked before anything is loaded. What a compressor does is in `compressors`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from nacdeploy.base.errors import unknown

PRUNING, QUANTIZATION = "pruning", "quantization"

Share = Annotated[float, Field(ge=0, lt=1)]
Advance = Annotated[float, Field(gt=0, lt=1)]  # the share of one step: none would never come to an end
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
WeightBits = Annotated[int, Field(ge=2, le=8)]
ActivationBits = Annotated[int, Field(ge=4, le=8)]
Epoch = Annotated[int, Field(ge=0)]
Channels = Literal["l1", "l2", "fpgm", "apoz", "mean-activation", "taylor", "slim", "magnitude"]
Algorithm = Literal["level", "l1", "l2", "fpgm", "apoz", "mean-activation", "taylor", "slim", "magnitude"]

# Keys of every entry.
SELECTION: dict[str, Any] = {
    "op_types": list[str],
    "op_names": list[str],
    "exclude": bool,
    "expand_op_names": bool,
}
SPARSITY: dict[str, Any] = {"sparsity": Share}
BITS: dict[str, Any] = {
    "quant_types": list[Literal["weight", "input", "output"]],
    "quant_bits": Any,  # a number of bits, or one by quant_type: checked by `grammar`
    "bits": Any,
}
QUANT_BITS: dict[str, Any] = {"weight": WeightBits, "input": ActivationBits, "output": ActivationBits}
SIGNS: dict[str, Any] = {**QUANT_BITS, "weight": Annotated[int, Field(ge=1, le=8)]}  # binary weights, at any number


@dataclass(frozen=True)
class Words:
    """A compressor: its type, its keys per layer and per run with what they take, the bits by quant_type, the keys that
    an entry must have, the old system's keys that mean nothing here, whether it cuts channels, and whether it looks at
    images."""

    name: str
    type: str
    aliases: tuple[str, ...] = ()
    per_layer: dict[str, Any] = field(default_factory=dict)
    per_run: dict[str, Any] = field(default_factory=dict)
    bits: dict[str, Any] = field(default_factory=lambda: QUANT_BITS)
    required: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    cuts_channels: bool = False
    sees_images: bool = False
    is_procedure: bool = False


def _pruner(name: str, *aliases: str, **more: Any) -> Words:
    settings = {
        "per_layer": SPARSITY,
        "required": ("sparsity",),
        "ignored": ("global_sort", "sparsifying_training_epochs"),
    }
    return Words(name, PRUNING, aliases, **{**settings, **more})


def _channels(name: str, *aliases: str, **more: Any) -> Words:
    keys = {"channel_round": Count, "n_calibration": Annotated[int, Field(ge=2)], "reconstruct": bool}
    ignored = ("activation", "dependency_aware", "dummy_input", "statistics_batch_num")
    more.setdefault("ignored", ignored)
    return _pruner(name, *aliases, per_run={**keys, **more.pop("per_run", {})}, cuts_channels=True, **more)


def _quantizer(name: str, *aliases: str, **more: Any) -> Words:
    return Words(name, QUANTIZATION, aliases, per_layer=BITS, ignored=("quant_start_step",), **more)


_ADMM = {"row": Annotated[float, Field(gt=0)], "base_algo": Algorithm}
_ANNEALING = {
    "start_temperature": Annotated[float, Field(gt=0)],
    "stop_temperature": Annotated[float, Field(gt=0)],
    "cool_down_rate": Annotated[float, Field(gt=0, lt=1)],
    "perturbation_magnitude": Annotated[float, Field(gt=0, lt=1)],
    "base_algo": Algorithm,
}
_PROCEDURE: dict[str, Any] = {"is_procedure": True, "cuts_channels": True}
_OLD_PROCEDURE = ("short_term_fine_tuner", "evaluator", "trainer", "optimize_mode", "experiment_data_dir")
_OLD_AMC = ("model_type", "n_points", "n_calibration_batches", "warmup", "hidden1", "hidden2", "dataset")

COMPRESSORS = (
    _pruner("level"),
    _channels("l1", "l1_filter"),
    _channels("l2", "l2_filter"),
    _channels("fpgm"),
    _channels("apoz", "activation_apoz_rank_filter", "activation_apoz_rank", sees_images=True),
    _channels("mean-activation", "activation_mean_rank_filter", "activation_mean_rank", sees_images=True),
    _channels("taylor", "taylor_fo_weight_filter", "taylor_fo_weight", sees_images=True),
    _channels("slim"),
    _pruner(
        "agp",
        per_layer={"initial_sparsity": Share, "final_sparsity": Share},
        per_run={"start_epoch": Epoch, "end_epoch": Count, "frequency": Count, "pruning_algorithm": Algorithm},
        required=("final_sparsity",),
    ),
    _pruner(
        "admm",
        per_run={"num_iterations": Count, "training_epochs": Count, **_ADMM},
        ignored=_OLD_PROCEDURE,
        **_PROCEDURE,
    ),
    _pruner(
        "netadapt",
        "net_adapt",
        per_run={"sparsity_per_iteration": Advance, "short_term_epochs": Epoch, "base_algo": Channels},
        ignored=_OLD_PROCEDURE,
        **_PROCEDURE,
    ),
    _pruner("simulated-annealing", "simulated_annealing", per_run=_ANNEALING, ignored=_OLD_PROCEDURE, **_PROCEDURE),
    _pruner(
        "sensitivity",
        per_run={
            "sparsity_per_iter": Advance,
            "acc_drop_threshold": Annotated[float, Field(gt=0)],
            "max_sparsity_per_iter": Advance,
            "ratios": Annotated[list[Advance], Field(min_length=1)],
            "base_algo": Algorithm,
        },
        ignored=(*_OLD_PROCEDURE, "checkpoint_dir", "finetuner"),
        **_PROCEDURE,
    ),
    _pruner(
        "lottery-ticket",
        "lottery_ticket",
        "lottery",
        per_run={"prune_iterations": Count, "reset_weights": bool, "rewind_epochs": Epoch},
        ignored=("lr_scheduler",),
        is_procedure=True,
    ),
    _pruner(
        "auto-compress",
        "auto_compress",
        per_run={
            "num_iterations": Count,
            "admm_num_iterations": Count,
            "admm_training_epochs": Count,
            **_ANNEALING,
            **_ADMM,
        },
        ignored=(*_OLD_PROCEDURE, "dummy_input"),
        **_PROCEDURE,
    ),
    _pruner(
        "amc",
        "amc-like",
        per_layer={},
        per_run={
            "flops_ratio": Fraction,
            "lbound": Share,
            "rbound": Fraction,
            "channel_round": Count,
            "train_episode": Count,
            "base_algo": Channels,
        },
        required=(),
        ignored=("sparsity", *_OLD_AMC),
        **_PROCEDURE,
    ),
    _quantizer("naive"),
    _quantizer("qat"),
    _quantizer("dorefa"),
    _quantizer("binary", "bnn", bits=SIGNS),
)
_BY_NAME = {alias: words for words in COMPRESSORS for alias in (words.name, *words.aliases)}


def compressor(name: str) -> Words:
    """Return a compressor by its name or one of its old names: `l1_filter`, `L1FilterPruner`.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    plain = "".join(c for c in name.lower() if c.isalnum()).removesuffix("pruner").removesuffix("quantizer")
    for alias, words in _BY_NAME.items():
        if "".join(c for c in alias if c.isalnum()) == plain:
            return words
    raise unknown("compressor", name, [words.name for words in COMPRESSORS])


PROPOSERS = {
    "random": ("random",),
    "grid": ("grid", "sequence"),
    "tpe": ("tpe", "hyperopt"),
    "cmaes": ("cmaes", "cma-es", "cma_es"),
    "hyperband": ("hyperband",),
    "asha": ("asha",),
    "gp": ("gp", "spearmint"),
    "bohb": ("bohb",),
}


ENDING = ("hyperband", "bohb", "asha")  # that end weak jobs early


def proposer(name: str) -> str:
    """Our name of a proposer, given ours or the old system's.

    Raises:
        UsageError: there is none; the known ones are named.
    """
    for ours, names in PROPOSERS.items():
        if name.lower() in names:
            return ours
    raise unknown("proposer", name, [other for names in PROPOSERS.values() for other in names])

"""Weights as trainers leave them: the kind of file, the place of the state dict in it, and the prefix of its names.

A state dict is taken if all names and shapes of the model are found in it under one prefix. The wrapper around the
state dict, the prefix and the other content of the file are then certain, and reported.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.models import weight_files
from nacdeploy.models.weight_files import listed

# Wrappers in the order in which they are tried, where several hold weights that fit.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params", "student")
_AVERAGED = re.compile(r"ema|averag|swa|teacher")
# Parts of names that wrappers of modules add anywhere, and keys of profilers and of averaging that hold no weights.
_INNER = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
_NO_WEIGHTS = re.compile(r"(^|\.)(total_ops|total_params|n_averaged)$")
_MAX_DEPTH = 4


@dataclass(frozen=True)
class Found:
    """A model's values from a file, the notes on them, and the names that keep the model's own values (`new_head`)."""

    values: dict[str, Tensor]
    notes: tuple[str, ...]
    new_head: tuple[str, ...] = ()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the first state dict in a file, without running any code in the file.

    Raises:
        UsageError: the file is missing, damaged, of another kind, or holds no state dict.
    """
    _, values = next(_state_dicts(weight_files.content(path)), (None, None))
    if values is None:
        raise weight_files.holds_none(path)
    if path.suffix.lower() == weight_files.SAFETENSORS:
        return values
    return {name.removeprefix("module."): value for name, value in values.items()}


def fitting(path: Path, model: nn.Module, *, new_head: bool = False) -> Found:
    """Return the values of a model from a file.

    With `new_head`, layers that differ only in their number of classes keep the model's own values.

    Raises:
        UsageError: the file is missing, damaged or of another kind, or nothing in it fits the model.
    """
    expected = model.state_dict()
    content = weight_files.content(path)
    dicts = sorted(_state_dicts(content), key=lambda found: _rank(found[0]))
    if not dicts:
        raise weight_files.holds_none(path)
    nearest_fit = min((_Fit.of(expected, where, values) for where, values in dicts), key=lambda fit: fit.n_wrong)
    fit = nearest_fit.with_head_of(expected) if new_head else nearest_fit
    if fit.n_wrong:
        raise UsageError(f"{path} does not fit the model: {fit.problem(expected)}")
    others = [where for where, values in dicts if where != fit.where and _Fit.of(expected, where, values).n_wrong == 0]
    notes = (*fit.notes(), *(f"'{where}' would fit as well" for where in others))
    return Found(fit.taken, notes, fit.new_head)


def n_classes(path: Path, model: nn.Module) -> int | None:
    """Return the number of classes that a file knows, if it fits a model of another number of classes in all else."""
    expected = model.state_dict()
    fits = [_Fit.of(expected, where, values) for where, values in _state_dicts(weight_files.content(path))]
    fit = min(fits, key=lambda fit: fit.n_wrong, default=None)
    if fit is None or fit.missing or fit.surplus or not fit._knows_other_classes(expected):
        return None
    return int(fit.taken[fit.differing[0]].shape[0])


@dataclass(frozen=True)
class _Fit:
    """The fit of a state dict to a model: the values by the model's names, and the problems."""

    where: str
    prefix: str
    taken: dict[str, Tensor]
    given: tuple[str, ...]
    missing: tuple[str, ...]
    differing: tuple[str, ...]
    surplus: tuple[str, ...]
    passed_over: tuple[str, ...]
    new_head: tuple[str, ...] = ()

    @classmethod
    def of(cls, expected: Mapping[str, Tensor], where: str, given: Mapping[str, Tensor]) -> "_Fit":
        """Fit by the prefix under which most names of the model are found."""
        names = {_plain(name): name for name in given if not _NO_WEIGHTS.search(name)}
        prefix, added = _prefix(expected, names)
        ours = {name: name.removeprefix(added) for name in expected}
        known = {name: given[names[prefix + inner]] for name, inner in ours.items() if prefix + inner in names}
        missing = [name for name in expected if name not in known]
        spare = {name: expected[name] for name in missing if name.endswith("num_batches_tracked")}
        spare |= {name: known[other] for name in missing if (other := _tied(name, expected, known)) is not None}
        used = {prefix + inner for inner in ours.values()}
        left = [name for name in names if name not in used]
        outside = [name for name in left if prefix and not name.startswith(prefix)]
        return cls(
            where,
            prefix or (f"-{added}" if added else ""),
            {**known, **spare},
            tuple(given),
            tuple(name for name in missing if name not in spare),
            tuple(name for name in known if known[name].shape != expected[name].shape),
            tuple(name for name in left if name not in outside),
            (*outside, *(name for name in given if _NO_WEIGHTS.search(name))),
        )

    @property
    def n_wrong(self) -> int:
        return len(self.missing) + len(self.differing) + len(self.surplus)

    def with_head_of(self, expected: Mapping[str, Tensor]) -> "_Fit":
        """Return the same fit with the model's own values wherever only the number of classes differs."""
        if not self._knows_other_classes(expected):
            return self
        kept = {**self.taken, **{name: expected[name] for name in self.differing}}
        return replace(self, taken=kept, differing=(), new_head=self.differing)

    def _knows_other_classes(self, expected: Mapping[str, Tensor]) -> bool:
        """Tell whether all differences lie in one number of outputs that no other layer reads."""
        pairs = [(expected[name].shape, self.taken[name].shape) for name in self.differing]
        numbers = {(ours[:1], theirs[:1]) for ours, theirs in pairs}
        return len(numbers) == 1 and all(len(ours) > 0 and ours[1:] == theirs[1:] for ours, theirs in pairs)

    def notes(self) -> Iterator[str]:
        """Yield notes: the facts found, and the names left out."""
        if self.where:
            yield f"weights under '{self.where}'"
        if self.prefix.startswith("-"):
            yield f"names without '{self.prefix[1:]}'"
        elif self.prefix:
            yield f"names without their '{self.prefix}'"
        if self.passed_over:
            yield f"passed over: {listed(self.passed_over)}"
        if self.new_head:
            yield f"a new head in place of {listed(self.new_head)}"

    def problem(self, expected: Mapping[str, Tensor]) -> str:
        """Describe the first problem, with the nearest name or shape."""
        if self.differing and not self.missing:
            return self._shapes(expected)
        if self.missing:
            theirs = [name.removeprefix(self.prefix) for name in self.given]
            near = nearest(self.missing[0], theirs).partition("; known")[0].replace("did you mean", "nearest in it:")
            first = f"'{self.missing[0]}'{_more(self.missing)} is missing{near.rstrip('?')}"
            return f"{first}; the file's names begin with {listed(self.given)}"
        near = nearest(self.surplus[0], expected).partition("; known")[0].replace("did you mean", "nearest:")
        return f"'{self.surplus[0]}'{_more(self.surplus)} is not of this model{near.rstrip('?')}"

    def _shapes(self, expected: Mapping[str, Tensor]) -> str:
        name = self.differing[0]
        said = f"'{name}' is {tuple(self.taken[name].shape)}, the model has {tuple(expected[name].shape)}"
        if self._knows_other_classes(expected):
            return f"{said}: it knows other classes; --new-head draws a new head and trains from the rest"
        return f"{said}{f', and {len(self.differing) - 1} more differ' if self.differing[1:] else ''}; " + (
            "check --model and --width"
        )


def _prefix(expected: Mapping[str, Tensor], names: Mapping[str, str]) -> tuple[str, str]:
    """Return the prefix of the file's names before the model's, or of the model's before the file's; of equals the
    shortest."""
    common = next(iter(expected), "").partition(".")[0] + "."
    added = ["", *([common] if all(name.startswith(common) for name in expected) else [])]
    best = ("", "", -1)
    for ours in added:
        inner = [name.removeprefix(ours) for name in expected]
        ends = {name: p for name in names for first in inner[:3] if (p := _before(name, first)) is not None}
        for prefix in sorted({"", *ends.values()}, key=lambda p: (len(p), p)):
            n_found = sum(prefix + name in names for name in inner)
            best = max(best, (prefix, ours, n_found), key=lambda found: found[2])
    return best[0], best[1]


def _before(name: str, end: str) -> str | None:
    is_end = name == end or name.endswith(f".{end}")
    return name[: len(name) - len(end)] if is_end else None


def _tied(name: str, expected: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> str | None:
    """Return the second name of a tensor that the model holds under two names, if the file has the tensor under that
    name."""
    own = expected[name]
    same = (o for o in known if expected[o].data_ptr() == own.data_ptr() and expected[o].shape == own.shape)
    return next(same, None) if own.numel() else None


def _plain(name: str) -> str:
    for part in _INNER:
        name = name.replace(part, "")
    return name


def _rank(where: str) -> tuple[bool, int, int]:
    """Rank state dicts: weights before averaged weights, known wrappers before others, outer before inner."""
    parts = where.split(".") if where else []
    known = [_WRAPPERS.index(part) if part in _WRAPPERS else len(_WRAPPERS) for part in parts]
    return (any(_AVERAGED.search(part) for part in parts), max(known, default=-1), len(parts))


def _state_dicts(content: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the mappings of names to tensors in a loaded object, each with the keys that lead to it."""
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from _state_dicts(value, f"{where}.{key}" if where else key, depth + 1)


def _more(names: tuple[str, ...]) -> str:
    return f" (and {len(names) - 1} more)" if names[1:] else ""

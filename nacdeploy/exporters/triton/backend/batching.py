"""Requests of Triton's Python backend as batches: those that fit together run as one, and each gets its own rows.

A request whose numbers are not finite, or whose run fails, gets an error; the others are answered.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Mapping[str, NDArray[Any]]]


def answered(triton: Any, requests: Sequence[Any], names: Sequence[str], run: Run, batched: bool) -> list[Any]:
    """Answer requests in their order.

    Args:
        triton: the module `triton_python_backend_utils`.
        names: the inputs of the model.
        run: returns outputs by name of inputs by name.
        batched: whether requests may be put together along their first dimension.
    """
    answers: list[Any] = [None] * len(requests)
    groups: dict[Any, list[tuple[int, Arrays]]] = {}
    for place, request in enumerate(requests):
        given = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in names}
        if (wrong := problem(given)) is not None:
            answers[place] = _failed(triton, wrong)
        else:
            groups.setdefault(_form(given) if batched else place, []).append((place, given))
    for group in groups.values():
        for place, answer in _run(triton, group, run):
            answers[place] = answer
    return answers


def problem(given: Arrays) -> str | None:
    """Return what is wrong with the numbers of a request."""
    for name, x in given.items():
        if x.size == 0:
            return f"input '{name}' of shape {list(x.shape)} is empty"
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            n = int(x.size - np.isfinite(x).sum())
            return f"input '{name}' holds {n} numbers that are not finite (NaN or infinite)"
    return None


def _form(given: Arrays) -> tuple[Any, ...]:
    """Return what requests must share to run together."""
    return tuple((x.shape[1:], x.dtype.str) for x in given.values())


def _run(triton: Any, group: Sequence[tuple[int, Arrays]], run: Run) -> list[tuple[int, Any]]:
    """Return the answers of requests that run together, by their places."""
    sizes = [len(next(iter(given.values()))) if given else 0 for _, given in group]
    first = group[0][1]
    joined = first if len(group) == 1 else {name: np.concatenate([given[name] for _, given in group]) for name in first}
    try:
        outputs = run(joined)
    except Exception as error:  # the server and its other requests go on
        return [(place, _failed(triton, f"{type(error).__name__}: {error}"[:500])) for place, _ in group]
    found, start = [], 0
    for (place, _), size in zip(group, sizes, strict=True):
        rows = outputs if len(group) == 1 else {name: y[start : start + size] for name, y in outputs.items()}
        start += size
        tensors = [triton.Tensor(name, np.ascontiguousarray(y)) for name, y in rows.items()]
        found.append((place, triton.InferenceResponse(output_tensors=tensors)))
    return found


def _failed(triton: Any, message: str) -> Any:
    return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(message))

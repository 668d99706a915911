"""Empirical variational Bayesian matrix factorisation: the rank of a matrix under Gaussian noise, in closed form.

Nakajima, Sugiyama, Babacan and Tomioka, "Global analytic solution of fully-observed variational Bayesian matrix
factorization", JMLR 14, 2013.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

Values = NDArray[np.float64]

_TINY = 1e-300


@dataclass(frozen=True)
class Factorisation:
    """The estimated rank, the noise variance, and the singular values of the estimate, largest first."""

    rank: int
    noise_variance: float
    singular_values: tuple[float, ...]


def evbmf(matrix: Tensor, noise_variance: float | None = None) -> Factorisation:
    """Return the global solution for `matrix` (L, M), L <= M, or of its transpose; without a `noise_variance`, the
    solution of least free energy.

    A singular value is kept from sigma sqrt(M (1 + tau)(1 + alpha / tau)) on, tau = 2.5129 sqrt(alpha), alpha = L / M
    (Theorem 2 and Corollary 1), and shrunk as VBMF does (eq. 10).
    """
    n_rows, n_columns = sorted(matrix.shape)
    squares, alpha = _squares(matrix), n_rows / n_columns
    if squares[0] <= 0:
        return Factorisation(0, 0.0, ())
    variance = _noise_variance(squares, n_columns, alpha) if noise_variance is None else noise_variance
    kept = squares[squares > n_columns * variance * _threshold(alpha)]
    share = 1 - (n_rows + n_columns) * variance / kept
    root = np.sqrt(np.maximum(share**2 - 4 * n_rows * n_columns * (variance / kept) ** 2, 0))
    return Factorisation(len(kept), float(variance), tuple(float(v) for v in np.sqrt(kept) / 2 * (share + root)))


def _squares(matrix: Tensor) -> Values:
    """Return the squared singular values, largest first, as eigenvalues of the smaller Gram matrix."""
    wide = matrix.double().cpu()
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    values: Values = np.linalg.eigvalsh((wide @ wide.T).numpy())[::-1]
    return np.maximum(values, 0)


def _threshold(alpha: float) -> float:
    tau = 2.5129 * math.sqrt(alpha)
    return (1 + tau) * (1 + alpha / tau)


def _noise_variance(squares: Values, n_columns: int, alpha: float) -> float:
    """Return the minimum of the free energy between the bounds of Theorem 3."""
    n_rows = len(squares)
    n_largest = max(0, min(math.ceil(n_rows / (1 + alpha)) - 1, n_rows - 1))
    highest = float(squares.sum()) / (n_rows * n_columns)
    rest = squares[n_largest:]
    lowest = max(float(rest[0]) / (n_columns * _threshold(alpha)), float(rest.mean()) / n_columns)
    lowest = max(lowest, _TINY, highest * 1e-16)
    if lowest >= highest:
        return highest
    x = squares / n_columns
    found = minimize_scalar(
        lambda variance: _free_energy(x / variance, alpha),
        bounds=(lowest, highest),
        method="bounded",
        options={"xatol": 1e-9 * highest},
    )
    return float(found.x)


def _free_energy(x: Values, alpha: float) -> float:
    """Return the part of the free energy that depends on the noise, by x = gamma^2 / (M sigma^2) (eq. 31 to 34)."""
    x = np.maximum(x, _TINY)
    large = x[x > _threshold(alpha)]
    tau = (large - (1 + alpha) + np.sqrt(np.maximum((large - (1 + alpha)) ** 2 - 4 * alpha, 0))) / 2
    gain = np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau
    return float((x - np.log(x)).sum() + gain.sum())

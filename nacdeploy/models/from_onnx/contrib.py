"""Operators that ONNX Runtime's own optimiser and quantiser write (domain com.microsoft), and the newest of ONNX's own,
as functions of torch: entries as in `operators.py`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MICROSOFT = "com.microsoft:"


def _skip_norm(
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    offset: Tensor | None = None,
    bias: Tensor | None = None,
    epsilon: float = 1e-5,
) -> tuple[Tensor | None, ...]:
    total = x + skip if bias is None else x + skip + bias
    return F.layer_norm(total, [total.shape[-1]], scale, offset, epsilon), None, None, total


def _skip_rms(
    x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, epsilon: float = 1e-5
) -> tuple[Tensor | None, ...]:
    total = x + skip if bias is None else x + skip + bias
    return _rms(total, scale, epsilon=epsilon), None, None, total


def _rms(x: Tensor, scale: Tensor, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    axes = tuple(range(axis % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale


def _product(a: Tensor, b: Tensor, alpha: float = 1.0, transA: int = 0, transB: int = 0, **others: Any) -> Tensor:  # noqa: N803
    if others.get("transBatchA") or others.get("transBatchB"):
        raise NotImplementedError("FusedMatMul that turns the batch around")
    a, b = (x.transpose(-1, -2) if is_turned else x for x, is_turned in ((a, transA), (b, transB)))
    return alpha * (a @ b)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *more: Any,
    q_num_heads: int = 1,
    kv_num_heads: int = 1,
    is_causal: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    qk_matmul_output_mode: int = 0,
    softmax_precision: int = 1,
) -> Tensor:
    """Attend, `(N, H, L, D)` or `(N, L, H * D)`, without a past. The mode tells of an output that is not computed."""
    if any(each is not None for each in more) or softcap or q.dim() not in (3, 4):
        raise NotImplementedError("Attention with a past or a soft cap")
    is_flat = q.dim() == 3
    if is_flat:
        q, k, v = (
            x.reshape(x.shape[0], x.shape[1], n, -1).transpose(1, 2)
            for x, n in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads))
        )
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    found = F.scaled_dot_product_attention(q, k, v, mask, is_causal=bool(is_causal), scale=scale)
    return found.transpose(1, 2).flatten(2) if is_flat else found


def _dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values as they are: in float nothing is rounded, and scale and zero point change nothing."""
    return x, torch.ones(()), torch.zeros(())


def whole_product(a: Tensor, b: Tensor, a_zero: Any = None, b_zero: Any = None) -> Tensor:
    """Multiply values that a quantised file holds as integers."""
    left, right = (x.float() if zero is None else x.float() - as_float(zero) for x, zero in ((a, a_zero), (b, b_zero)))
    return left @ right


def as_float(value: Any) -> Tensor:
    """Return a value or numbers as floats."""
    found: Tensor = value.float() if isinstance(value, Tensor) else value.tensor().float()
    return found


CONTRIB: dict[str, Callable[..., Any]] = {
    "RMSNormalization": _rms,
    "SimplifiedLayerNormalization": _rms,
    "Attention": _attention,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": whole_product,
    f"{MICROSOFT}Gelu": lambda x: F.gelu(x),
    f"{MICROSOFT}BiasGelu": lambda x, bias: F.gelu(x + bias),
    f"{MICROSOFT}FastGelu": lambda x, bias=None: F.gelu(x if bias is None else x + bias, approximate="tanh"),
    f"{MICROSOFT}QuickGelu": lambda x, alpha=1.702: x * torch.sigmoid(alpha * x),
    f"{MICROSOFT}FusedMatMul": _product,
    f"{MICROSOFT}SkipLayerNormalization": _skip_norm,
    f"{MICROSOFT}SkipSimplifiedLayerNormalization": _skip_rms,
}

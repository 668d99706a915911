"""The effect of operators on the channels of their inputs, by operator name, and the arguments of their calls."""

import re
from typing import Any

MOVES = {
    "view",
    "_unsafe_view",
    "reshape",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "t",
    "movedim",
    "swapaxes",
    "numpy_T",
    "unsqueeze",
    "squeeze",
    "select",
    "reshape_as",
    "view_as",
    "expand_as",
    "slice",
    "narrow",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "tensor_split",
    "expand",
    "repeat",
    "tile",
    "flip",
    "roll",
    "index",
    "index_select",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "unfold",
}
ALIKE = {
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "clone",
    "contiguous",
    "to",
    "_to_copy",
    "type_as",
    "detach",
    "alias",
    "lift_fresh",
    "lift_fresh_copy",
    "relu6",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "silu",
    "mish",
    "gelu",
    "elu",
    "selu",
    "celu",
    "softplus",
    "leaky_relu",
    "relu",
    "sigmoid",
    "tanh",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rsub",
    "where",
    "masked_fill",
    "clamp",
    "clip",
    "square",
    "float",
    "half",
    "double",
    "softsign",
    "log_sigmoid",
    "tanhshrink",
    "hardshrink",
    "softshrink",
    "threshold",
    "rrelu",
    "pow",
    "floor_divide",
    "true_divide",
    "divide",
    "multiply",
    "subtract",
    "__and__",
    "__or__",
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "exp",
    "abs",
    "sqrt",
    "rsqrt",
    "identity",
}
SUMS = {"sum"}
REDUCTIONS = {
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "norm",
    "linalg_vector_norm",
    "logsumexp",
    "prod",
    "any",
    "all",
    "argmax",
    "argmin",
}
N_AXES = re.compile("([123])d")
SPATIAL = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "upsample", "lp_pool")


class Call:
    """An operator's call: its node, its arguments by name, with defaults, and its place in words for people."""

    def __init__(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any], where: str) -> None:
        self.node, self.args, self.kwargs, self.where = node, args, kwargs, where
        schema: Any = getattr(node.target, "_schema")  # noqa: B009
        self._names = [each.name for each in schema.arguments]
        self._defaults = {each.name: each.default_value for each in schema.arguments if each.has_default_value()}

    def get(self, name: str) -> Any:
        """Return the argument `name`, or None if the operator has none."""
        if name in self.kwargs:
            return self.kwargs[name]
        place = self._names.index(name) if name in self._names else len(self.args)
        return self.args[place] if place < len(self.args) else self._defaults.get(name)

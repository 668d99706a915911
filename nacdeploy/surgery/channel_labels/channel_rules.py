"""Rules: the labels of what an operator writes, from the labels of what it reads, and the channels that it joins or
fixes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nacdeploy.network.captured.graph import operator_name
from nacdeploy.surgery.channel_labels.channel_classes import Classes, Labels
from nacdeploy.surgery.channel_labels.channel_operators import ALIKE, MOVES, N_AXES, REDUCTIONS, SPATIAL, SUMS, Call

Axes: TypeAlias = tuple[Labels, ...]


def blank(n: int) -> Labels:
    """Return the labels of `n` places that are no channels."""
    return np.zeros(n, np.int64)


@dataclass(frozen=True, eq=False)
class Rules:
    """The rules of operators, and of the two kinds of layers with weights.

    Attributes:
        classes: the classes of channels, which the rules join and fix.
        written: the labels of the tensor that a graph node writes (of several tensors: a list), by node.
        heads: the axis along which a node that splits channels into heads keeps labels, by its name.
    """

    classes: Classes
    written: dict[Any, Any] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)

    def labels_of(self, node: Any) -> Axes:
        """Return the labels of the one tensor that a node writes, or none."""
        found = self.written.get(node)
        return found if isinstance(found, tuple) else ()

    def of(self, call: Call, value: Any) -> Any:
        """Return the labels of what an operator writes; raise any error if it has no rule for this call."""
        name = operator_name(call.node.target)
        if name in MOVES:
            return self._moved(call, value)
        if name in ALIKE or torch.Tag.pointwise in getattr(call.node.target, "tags", ()):
            read = map(self.labels_of, call.node.all_input_nodes)
            return self._alike([axes for axes in read if axes], call.where)
        if name.startswith(SPATIAL):
            n_axes = int(N_AXES.findall(name)[0])
            return self._pooled(self.labels_of(call.node.args[0]), n_axes, value, call.where)
        if name in SUMS | REDUCTIONS:
            return self._reduced(call, value, name)
        rules: dict[str, Callable[[Call], Any]] = {
            "cat": self._cat,
            "concat": self._cat,
            "stack": self._stack,
            "matmul": self._matmul,
            "bmm": self._matmul,
            "mm": self._matmul,
            "linear": self._multiplied,
            "conv1d": self._convolved,
            "conv2d": self._convolved,
            "conv3d": self._convolved,
            "scaled_dot_product_attention": self._attention,
            "softmax": self._along_fixed,
            "_softmax": self._along_fixed,
            "log_softmax": self._along_fixed,
            "pad": self._padded,
            "constant_pad_nd": self._padded,
            "prelu": self._per_channel,
            "instance_norm": self._per_channel,
            "batch_norm": self._per_channel,
            "_native_batch_norm_legit_no_training": lambda call: [
                self._per_channel(call),
                (blank(0),),
                (blank(0),),
            ],
            "einsum": self._einsum,
            "glu": self._glu,
            "_weight_norm": self._weight_norm,
            "_weight_norm_interface": self._weight_norm,
        }
        return rules[name](call)

    def fix(self, axes: Sequence[Labels], why: str) -> None:
        """Let no channel along these axes be cut."""
        for axis in axes:
            self.classes.fix(axis, why)

    def alike_parts(self, channels: Labels, n_parts: int, where: str) -> Labels:
        """Let each of equal parts lose the channels at the same places."""
        parts = channels.reshape(n_parts, -1)
        self.classes.join(parts[:1], parts, where)
        return parts[0]

    def linear(self, x: Axes, weight: Axes, bias: Axes | None, where: str) -> Axes:
        """Return the labels of a product with a weight (O, I)."""
        self.classes.join(x[-1], weight[1], where)
        if bias is not None:
            self.classes.join(bias[0], weight[0], where)
        return (*x[:-1], weight[0])

    def convolution(self, x: Axes, weight: Axes, bias: Axes | None, groups: int, n_axes: int, where: str) -> Axes:
        """Return the labels of a convolution with a weight (O, I, ...) of `n_axes` axes in space."""
        if bias is not None:
            self.classes.join(bias[0], weight[0], where)
        channels = x[-n_axes - 1]
        self.fix(x[-n_axes:], where)
        if groups == 1:
            self.classes.join(channels, weight[1], where)
        elif len(weight[1]) == 1:  # depthwise: outputs are their inputs' own
            self.classes.join(weight[0].reshape(groups, -1), channels[:, None], where)
        else:
            self.classes.join(self.alike_parts(channels, groups, where), weight[1], where)
            self.alike_parts(weight[0], groups, where)
        return (*x[: -n_axes - 1], weight[0], *(blank(1) for _ in range(n_axes)))

    def _alike(self, given: Sequence[Axes], where: str) -> Axes:
        """Label the output of an operator that works element by element, with broadcasting."""
        n_axes = max((len(axes) for axes in given), default=0)
        made = []
        for axis in range(n_axes):
            here = [axes[axis - n_axes] for axes in given if len(axes) >= n_axes - axis]
            wide = [labels for labels in here if len(labels) > 1] or here[:1]
            for labels in wide[1:]:
                self.classes.join(wide[0], labels, where)
            made.append(next((labels for labels in wide if labels.any()), wide[0]))
        return tuple(made)

    def _moved(self, call: Call, value: Any) -> Any:
        """Let the operator itself move the labels, one axis after the other."""
        x = self.labels_of(call.node.args[0])
        many = isinstance(value, tuple | list)
        values = list(value) if many else [value]
        made = [[blank(size) for size in each.shape] for each in values]
        shape = [len(labels) for labels in x]
        for axis, labels in enumerate(x):
            found = self.classes.find(labels)
            if not found.any():
                continue
            view = [1] * len(shape)
            view[axis] = -1
            field = torch.from_numpy(found).reshape(view).expand(shape).contiguous()
            answer = call.node.target(field, *call.args[1:], **call.kwargs)
            for place, part in enumerate(answer if many else [answer]):
                self._place_moved(made[place], part, call.where, self.heads.get(call.node.name))
        return [tuple(each) for each in made] if many else tuple(made[0])

    def _place_moved(self, made: list[Labels], field: Tensor, where: str, heads: int | None = None) -> None:
        """Find the axis of a moved tensor along which labels vary; if several do, join all but the last, or all but
        that of the `heads`."""
        varying = [e for e in range(field.dim()) if bool((field != field.narrow(e, 0, 1)).any())]
        for axis in reversed(range(field.dim())):
            if axis not in varying:
                field = field.narrow(axis, 0, 1)
        labels = field.numpy()
        if not varying:
            self.classes.fix(labels.reshape(-1)[:1], where)
            return
        kept = heads if heads in varying else varying[-1]
        rows = np.moveaxis(labels, kept, -1).reshape(-1, labels.shape[kept])
        self.classes.join(rows[:1], rows, where)
        if made[kept].any():
            self.classes.fix(rows[0], where)
            self.classes.fix(made[kept], where)
        made[kept] = rows[0]

    def _pooled(self, x: Axes, n_axes: int, value: Any, where: str) -> Any:
        self.fix(x[-n_axes:], where)
        kept = (*x[:-n_axes], *(blank(1) for _ in range(n_axes)))
        return [kept for _ in value] if isinstance(value, tuple | list) else kept

    def _reduced(self, call: Call, value: Any, name: str) -> Any:
        x = self.labels_of(call.node.args[0])
        asked = call.get("dim")
        dims = range(len(x)) if asked is None or asked == [] else [asked] if isinstance(asked, int) else asked
        gone = {dim % len(x) for dim in dims}
        is_euclidean = name == "linalg_vector_norm" and call.get("ord") in (None, 2, 2.0)
        if name not in SUMS and not is_euclidean:
            self.fix([x[axis] for axis in gone], call.where)
        keep = bool(call.get("keepdim"))
        made = tuple(blank(1) if axis in gone else labels for axis, labels in enumerate(x) if keep or axis not in gone)
        return [made for _ in value] if isinstance(value, tuple | list) else made

    def _cat(self, call: Call) -> Axes:
        parts = [axes for each in call.node.args[0] if len(axes := self.labels_of(each)) > 1 or (axes and len(axes[0]))]
        dim = (call.get("dim") or 0) % len(parts[0])
        rest = self._alike([(*axes[:dim], blank(1), *axes[dim + 1 :]) for axes in parts], call.where)
        return (*rest[:dim], np.concatenate([axes[dim] for axes in parts]), *rest[dim + 1 :])

    def _stack(self, call: Call) -> Axes:
        parts = [self.labels_of(each) for each in call.node.args[0]]
        dim = (call.get("dim") or 0) % (len(parts[0]) + 1)
        rest = self._alike(parts, call.where)
        return (*rest[:dim], blank(len(parts)), *rest[dim:])

    def _matmul(self, call: Call) -> Axes | None:
        a, b = (self.labels_of(each) for each in call.node.args[:2])
        if min(len(a), len(b)) < 2:
            return None
        self.classes.join(a[-1], b[-2], call.where)
        return (*self._alike([a[:-2], b[:-2]], call.where), a[-2], b[-1])

    def _multiplied(self, call: Call) -> Axes:
        x, weight, bias = (self.labels_of(each) for each in (*call.node.args, None)[:3])
        return self.linear(x, weight, bias or None, call.where)

    def _convolved(self, call: Call) -> Axes:
        x, weight = self.labels_of(call.node.args[0]), self.labels_of(call.node.args[1])
        bias = self.labels_of(call.node.args[2]) if len(call.node.args) > 2 and call.node.args[2] is not None else None
        self.fix(weight[2:], call.where)
        return self.convolution(x, weight, bias, int(call.get("groups") or 1), len(weight) - 2, call.where)

    def _attention(self, call: Call) -> Axes:
        query, key, value = (self.labels_of(each) for each in call.node.args[:3])
        self.classes.join(query[-1], key[-1], call.where)
        if call.get("scale") is None:  # the default follows from the number of channels
            self.classes.fix(query[-1], call.where)
        self.fix([key[-2], value[-2], query[-2]], call.where)
        return (*self._alike([query[:-2], key[:-2], value[:-2]], call.where), query[-2], value[-1])

    def _along_fixed(self, call: Call) -> Axes:
        x = self.labels_of(call.node.args[0])
        self.classes.fix(x[call.get("dim")], call.where)
        return x

    def _padded(self, call: Call) -> Axes:
        made = list(self.labels_of(call.node.args[0]))
        pads = list(call.args[1])
        for place in range(len(pads) // 2):
            before, after = pads[2 * place : 2 * place + 2]
            labels = made[-1 - place]
            labels = labels[max(0, -before) : len(labels) - max(0, -after)]
            made[-1 - place] = np.concatenate([blank(max(0, before)), labels, blank(max(0, after))])
        return tuple(made)

    def _per_channel(self, call: Call) -> Axes:
        x = self.labels_of(call.node.args[0])
        if operator_name(call.node.target) == "batch_norm" and call.get("training"):
            self.fix((x[0], *x[2:]), call.where)
        for each in call.node.args[1:]:
            own = self.labels_of(each)
            if own and len(own[0]) > 1:
                self.classes.join(x[1], own[0], call.where)
        return x

    def _weight_norm(self, call: Call) -> Any:
        values, scale = self.labels_of(call.node.args[0]), self.labels_of(call.node.args[1])
        kept = call.get("dim") or 0
        self.fix([labels for axis, labels in enumerate(values) if axis != kept], call.where)
        self.classes.join(values[kept], scale[kept] if len(scale) == len(values) else scale[0], call.where)
        is_pair = operator_name(call.node.target) == "_weight_norm_interface"
        return [values, scale] if is_pair else values

    def _einsum(self, call: Call) -> Axes | None:
        left, _, right = str(call.args[0]).replace(" ", "").partition("->")
        if "." in left or not right:
            return None
        by_letter: dict[str, Labels] = {}
        for letters, each in zip(left.split(","), call.node.args[1], strict=True):
            for letter, labels in zip(letters, self.labels_of(each), strict=True):
                self.classes.join(by_letter.setdefault(letter, labels), labels, call.where)
        return tuple(by_letter[letter] for letter in right)

    def _glu(self, call: Call) -> Axes:
        x = list(self.labels_of(call.node.args[0]))
        dim = call.get("dim")
        x[dim] = self.alike_parts(x[dim], 2, call.where)
        return tuple(x)

"""The captured graph of a network: the operations of `forward(images)` in evaluation mode, with layers as calls of its
modules.

torch.export records the network at the level of ATen operators, with a batch of any size: defaults of arguments are
bound, Python's control flow is followed as it runs, and shapes that follow from the batch stay symbolic. The operators
of convolutions, linear layers and norms are then folded back into calls of the modules that own their parameters
(`folding.py`), so that training mode, surgery, masks and quantizers act on the user's own modules, subclasses included.
All else is a graph of plain functions: an activation inside a norm is a node, and so is the padding of a convolution's
subclass.
"""

import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.network.captured.decibels import snr_db
from nacdeploy.network.captured.folding import CaptureError, fold, is_functional
from nacdeploy.network.captured.graph import Captured, Interpreter

_LARGEST_BATCH = 4096
_LEAST_DB = 100.0
_N_CHECKED = 2
_N_KNOWN = 32
_KNOWN: OrderedDict[Any, Captured] = OrderedDict()


def capture(backbone: nn.Module, input_shape: tuple[int, ...], former: Captured | None = None) -> Captured:
    """Capture `backbone` in evaluation mode for images (N, *input_shape), and restore the modules' modes at the end.

    The capture is checked: the graph must answer noise as the network does. A network that is built again, as for every
    checkpoint, reuses the graph of the first one if it passes this check. So does a network that lost channels with its
    `former` graph, which fails if a number of channels is written in it.
    """
    if former is not None and _answers(former, backbone, input_shape):
        return former
    key = _likeness(backbone, input_shape)
    if key in _KNOWN and _answers(_KNOWN[key], backbone, input_shape):
        _KNOWN.move_to_end(key)
        return _KNOWN[key]
    found = _captured(backbone, input_shape)
    _KNOWN[key] = found
    if len(_KNOWN) > _N_KNOWN:
        _KNOWN.popitem(last=False)
    return found


def first_tensor(answer: Any) -> Any:
    """Return the first tensor of a network's answer: of a tuple, a dict, or an object with fields."""
    while not isinstance(answer, Tensor):
        if isinstance(answer, Mapping):
            answer = next(iter(answer.values()), None)
        elif isinstance(answer, tuple | list):
            answer = answer[0] if answer else None
        elif hasattr(answer, "__dataclass_fields__"):
            answer = next((getattr(answer, name) for name in answer.__dataclass_fields__), None)
        else:
            return None
    return answer


def forget_computed(backbone: nn.Module) -> None:
    """Drop the gradient history of tensors that a module keeps as plain attributes, as the older weight norm does.

    With that history a network cannot be copied.
    """
    for module in backbone.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                setattr(module, name, value.detach())


def _captured(backbone: nn.Module, input_shape: tuple[int, ...]) -> Captured:
    with _evaluating(backbone):
        try:
            images = _noise(backbone, input_shape)
            found = replace(fold(backbone, _exported(backbone, images)), modules=_modules(backbone))
            _check(found, backbone, images)
            return found
        except CaptureError as error:
            return Captured(None, why_not=str(error))


def _answers(former: Captured, backbone: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Tell whether a graph answers as a network does."""
    if former.graph is None or former.modules != _modules(backbone):
        return False
    with _evaluating(backbone):
        try:
            _check(former, backbone, _noise(backbone, input_shape))
        except Exception:  # shapes that do not fit, in whichever operator
            return False
    return True


def _modules(backbone: nn.Module) -> tuple[tuple[str, type], ...]:
    return tuple((path, type(module)) for path, module in backbone.named_modules())


def _likeness(backbone: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """Return the key that networks of one structure have in common."""
    modules = tuple((path, type(module), module.extra_repr()) for path, module in backbone.named_modules())
    return input_shape, modules, tuple((name, tuple(t.shape), t.dtype) for name, t in backbone.state_dict().items())


@contextmanager
def _evaluating(backbone: nn.Module) -> Iterator[None]:
    """Set evaluation mode; restore every module's own mode at the end and leave no gradient history."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        forget_computed(backbone)


class _Answer(nn.Module):
    """The network with images alone as its input, defaults for all else, and its first answer."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return first_tensor(self.backbone(images))


def _noise(backbone: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    like = next((p for p in backbone.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.randn(_N_CHECKED, *input_shape, generator=generator).to(like)


def _exported(backbone: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)}
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is one operator that hides its layers
    _start_autograd()
    try:
        with _quiet(), _marked_identities(backbone):
            program = _of_any_batch(_Answer(backbone), images, batch)
            return program if is_functional(program.graph) else program.run_decompositions({})
    except Exception as error:  # tracing runs the user's code: anything may be raised there, and all of it means "no"
        lines = str(error).strip().splitlines() or [""]
        raise CaptureError(f"torch.export: {type(error).__name__}: {lines[0][:200]}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)


def _of_any_batch(module: nn.Module, images: Tensor, batch: dict[int, Any]) -> torch.export.ExportedProgram:
    """Export the program for any batch.

    If Python's own `len(x)` fixes the batch, torch's bytecode tracer reads the program again: that tracer knows the
    batch as a size, but is slower and fails on more networks.
    """
    try:
        return torch.export.export(module, (images,), dynamic_shapes=(batch,), strict=False)
    except Exception as error:
        if "Constraints violated" not in str(error):
            raise
        try:
            return torch.export.export(module, (images,), dynamic_shapes=(batch,), strict=True)
        except Exception:
            raise error from None  # the first message is nearer to the user's code


@cache
def _start_autograd() -> None:
    """Run backward once before an export.

    Export shows autograd devices that are not there: an engine that first runs after an export starts threads for them,
    and then no forked child may train.
    """
    with torch.inference_mode(False), torch.enable_grad():
        torch.zeros(1, requires_grad=True).sum().backward()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of torch.export about itself, and its logs of what it cannot export."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


@contextmanager
def _marked_identities(backbone: nn.Module) -> Iterator[None]:
    """Leave a node for each module without parameters that answers with its own input."""
    handles = []
    for path, module in backbone.named_modules():
        is_bare = not any(True for _ in module.children()) and not any(True for _ in module.parameters())
        if path and is_bare and not type(module).__module__.startswith("torch.nn."):

            def mark(_module: nn.Module, given: tuple[Any, ...], answer: Any, path: str = path) -> Any:
                is_same = bool(given) and answer is given[0] and isinstance(answer, Tensor)
                return torch.ops.nacdeploy.identity(answer, path) if is_same else None

            handles.append(module.register_forward_hook(mark))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(found: Captured, backbone: nn.Module, images: Tensor) -> None:
    if found.graph is None:
        return
    with torch.no_grad():
        expected = first_tensor(backbone(images))
        answer = Interpreter(backbone, found).run(images)
    if answer.shape != expected.shape or snr_db(expected, answer) < _LEAST_DB:
        raise CaptureError("the captured graph answers otherwise than the network")

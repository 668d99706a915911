"""Together: one training by several processes, each on its share of the batches of a step (Accelerate).

Every process walks through the same batches in the same order and runs its share; gradients are summed with the weight
of their images. So a step of two processes is the step of one that accumulates two batches.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Together(Protocol):
    """The processes of a training.

    >>> together: Together = Alone()
    >>> together.share(["a batch", "another"]), together.agreed(0.5)
    (['a batch', 'another'], 0.5)
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    def share(self, group: Sequence[T]) -> Sequence[T]:
        """Return this process's batches of a step."""
        ...

    def joined(self, module: nn.Module, loss: float) -> float:
        """Sum the gradients of a module, and the loss, over all processes; return the loss."""
        ...

    def averaged(self, module: nn.Module) -> None:
        """Give the statistics that norms have seen in each process their mean over all."""
        ...

    def agreed(self, value: float) -> float:
        """Return the first process's value."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process, with everything to do itself."""

    rank: int = 0
    size: int = 1

    def share(self, group: Sequence[T]) -> Sequence[T]:
        return group

    def joined(self, module: nn.Module, loss: float) -> float:
        return loss

    def averaged(self, module: nn.Module) -> None:
        return None

    def agreed(self, value: float) -> float:
        return value


class Several:
    """The processes that were launched with the variables of torch's launchers (RANK, WORLD_SIZE, MASTER_ADDR)."""

    def __init__(self) -> None:
        from accelerate import PartialState

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        self._state = PartialState(cpu=not torch.cuda.is_available())
        self.rank, self.size = int(self._state.process_index), int(self._state.num_processes)

    def share(self, group: Sequence[T]) -> Sequence[T]:
        return group[self.rank :: self.size]

    def joined(self, module: nn.Module, loss: float) -> float:
        trained = [p for p in module.parameters() if p.requires_grad]
        has = torch.tensor([float(p.grad is not None) for p in trained] + [loss], dtype=torch.float64)
        *counts, total = self._sum(has).tolist()
        used = [p for p, count in zip(trained, counts, strict=True) if count]
        for p in used:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        grads: list[Any] = [p.grad for p in used]
        for grad, found in zip(grads, self._flat(grads, self._sum), strict=True):
            grad.copy_(found)
        return total

    def averaged(self, module: nn.Module) -> None:
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        for buffer, found in zip(buffers, self._flat(buffers, self._sum), strict=True):
            mean = found / self.size
            buffer.copy_(torch.where(found == buffer * self.size, buffer, mean))  # masks and the like stay exact

    def agreed(self, value: float) -> float:
        from accelerate.utils import broadcast

        found: Tensor = broadcast(torch.tensor([value], dtype=torch.float64, device=self._place))
        return float(found)

    def end(self) -> None:
        """Leave the group."""
        self._state.destroy_process_group()

    @property
    def _place(self) -> torch.device:
        return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")

    def _sum(self, values: Tensor) -> Tensor:
        from accelerate.utils import reduce

        found: Tensor = reduce(values.to(self._place), "sum")
        return found

    def _flat(self, tensors: Sequence[Tensor], over: Any) -> list[Tensor]:
        """Run one exchange for all tensors of a type."""
        found: dict[int, Tensor] = {}
        for kind in {each.dtype for each in tensors}:
            some = [each for each in tensors if each.dtype == kind]
            joined = over(torch.cat([each.reshape(-1) for each in some]))
            parts = joined.split([each.numel() for each in some])
            found |= {id(each): part.reshape(each.shape) for each, part in zip(some, parts, strict=True)}
        return [found[id(each)].to(each.device) for each in tensors]

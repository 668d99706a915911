"""Dropping residual branches for real: stand-ins without parameters take the place of a branch's modules.

Each stand-in answers with zeros of the shape of its input (not with the input: code behind may change it in place). So
the names of the modules are the whole plan, the parameters are gone, and the graph of the network is captured without
the branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nacdeploy.network.attachments.sparsity import Masks
from nacdeploy.network.captured.nothing import Nothing
from nacdeploy.network.network import Network, Structure


@dataclass(frozen=True)
class Block:
    """Structure only: the modules of a residual branch, and the one among them that computes the branch's output."""

    modules: tuple[str, ...]
    end: str

    def holds(self, name: str) -> bool:
        """Tell whether a module is one of the branch, or within one."""
        return any(name == each or name.startswith(f"{each}.") for each in self.modules)


def silence(backbone: nn.Module, blocks: Sequence[Block]) -> None:
    """Put stand-ins in the place of the branches' modules, in place."""
    for block in blocks:
        for name in block.modules:
            path, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(path), child, Nothing())


def drop(network: Network, blocks: Sequence[Block]) -> None:
    """Drop residual branches of a network in place, with their masks, and make everything derived from it anew."""
    silence(network.backbone, blocks)
    stay = {name: network.masks.get(name) for name in network.masks.layers if not any(b.holds(name) for b in blocks)}
    if len(stay) < len(network.masks.layers):
        masks = Masks({name: mask for name, mask in stay.items() if mask is not None})
        network.masks = masks.train(network.training)
    network.rebuild_attachments()
    network.structure = Structure()  # the wiring is another: what was known of the former one may not hold


def misfit(network: Network, blocks: Sequence[Block]) -> str | None:
    """Return why blocks from a file do not fit a network, or None if they do."""
    known, seen = {name for name, _ in network.backbone.named_modules() if name}, list[str]()
    for block in blocks:
        for name in block.modules:
            if name not in known:
                return f"it drops '{name[:80]}', which the model lacks"
            if any(f"{name}.".startswith(f"{each}.") or f"{each}.".startswith(f"{name}.") for each in seen):
                return f"it drops '{name[:80]}' twice"
            seen.append(name)
        if block.end not in block.modules:
            return f"it drops a branch that ends in '{block.end[:80]}', which is none of its modules"
    return None

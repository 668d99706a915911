"""Clock: where a letter that works against measured time asks for times.

Letters know no runtime: a session gives its task a clock (`latencies/clock.py`), and letters ask the task.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from nacdeploy.network.network import Network

Sizes = tuple[tuple[int, ...], tuple[int, ...]]
"""Numbers of input and of output channels of a layer."""

Grid = tuple[tuple[float, ...], ...]
"""Times in ms by number of input channels (rows) and of output channels."""


class Clock(Protocol):
    """Times on a target.

    >>> class Linear:
    ...     is_here, where = False, "a phone"
    ...     def layers_ms(self, network, sizes):
    ...         of = lambda ins, outs: tuple(tuple(n * m / 1e6 for m in outs) for n in ins)
    ...         return {name: of(*each) for name, each in sizes.items()}
    ...     def networks_ms(self, networks, family=""):
    ...         return ()
    ...     def kept(self, family, precision):
    ...         return ((0.1, 0.1),)
    >>> clock: Clock = Linear()
    >>> clock.layers_ms(None, {"conv": ((8, 16), (8,))})
    {'conv': ((6.4e-05,), (0.000128,))}
    """

    @property
    def is_here(self) -> bool:
        """Whether networks can be timed; else all times come from a table of another machine."""
        ...

    @property
    def where(self) -> str:
        """The place of the times, in words."""
        ...

    def layers_ms(self, network: Network, sizes: Mapping[str, Sizes]) -> Mapping[str, Grid]:
        """Return the times of layers of a network as it runs, all calls together, with other numbers of channels."""
        ...

    def networks_ms(self, networks: Sequence[Network], family: str = "") -> tuple[float, ...]:
        """Return the times of networks as they run. The first is the one that the others are compared with, in turns.

        Raises:
            NacdeployError: this machine is too noisy, or the target is not here.
        """
        ...

    def kept(self, family: str, precision: str) -> tuple[tuple[float, float], ...]:
        """Return the measured times of networks of a family and the sums of their layers' times, as far as known."""
        ...

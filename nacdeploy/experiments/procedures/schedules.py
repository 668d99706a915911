"""Schedules of sparsity over training, as pure functions of the epoch."""


def agp_sparsity(
    epoch: int,
    *,
    initial_sparsity: float,
    final_sparsity: float,
    start_epoch: int,
    end_epoch: int,
    frequency: int = 1,
) -> float:
    """Return the share of zeros that automated gradual pruning asks for in an epoch (Zhu & Gupta, 2017, eq. 1).

    final + (initial - final) (1 - (epoch - start) / span)^3, where the span reaches to the last step of `frequency`
    epochs before the end. Before the start it is the initial share, from the end on the final one. Epochs between the
    last step and the end are no steps: there the cubic runs on above the final share.
    """
    span = (end_epoch - start_epoch - 1) // frequency * frequency
    if epoch >= end_epoch or initial_sparsity == final_sparsity or span <= 0:
        return final_sparsity if epoch >= start_epoch else initial_sparsity
    left = 1 - max(epoch - start_epoch, 0) / span
    return final_sparsity + (initial_sparsity - final_sparsity) * left**3

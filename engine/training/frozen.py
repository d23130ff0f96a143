"""Transfer: all of a network stays as it is but the dense layers at its end (Kim et al.)."""

from __future__ import annotations

from torch import nn

__all__ = ["freeze"]


def freeze(network: nn.Module) -> tuple[nn.Module, ...]:
    """Let nothing be trained but the dense layers at the end.

    Returns
    -------
    The parts that stay. They have to be in evaluation mode whenever the network trains, so that
    batch statistics stay as well.

    Raises
    ------
    ValueError
        Where the network has no such layers, or nothing else.
    """
    still = tuple(part for part in network.children() if not _dense(part))
    if not still or len(still) == len(list(network.children())):
        raise ValueError(f"{type(network).__name__} has no dense layers at its end to train alone")
    for part in still:
        part.requires_grad_(False)
    return still


def _dense(part: nn.Module) -> bool:
    """Whether a part has linear layers, and no convolution: attention within a trunk has both."""
    kinds = [type(module) for module in part.modules()]
    return nn.Linear in kinds and not {nn.Conv2d, nn.Conv3d} & set(kinds)

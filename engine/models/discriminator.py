"""The discriminator of an adaptation: which domain a map of scores comes from, patch by patch.

AdaptSegNet's (Tsai et al. 2018), as UGS-1m uses it: five convolutions of stride 2, no activation
at the end. The paper's last softmax over one channel would always be 1.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["Discriminator"]


class Discriminator(nn.Module):
    """Probabilities (n, classes, y, x) -> logits (n, 1, y / 32, x / 32); above 0 is the source.

    Parameters
    ----------
    classes : int
    width : of the first layer; doubled three times.
    """

    def __init__(self, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        widths = [classes, width, 2 * width, 4 * width, 8 * width, 1]
        layers: list[nn.Module] = []
        for into, out in pairwise(widths):
            layers += [nn.Conv2d(into, out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, scores: Tensor) -> Tensor:
        found: Tensor = self.layers(scores)
        return found

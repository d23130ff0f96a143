"""ResNet (He et al. 2016) over whole patches: what says which classes occur in one."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from engine.models.backbone import Backbone

__all__ = ["PatchResNet"]


class PatchResNet(nn.Module):
    """Patches (n, bands, y, x) of any side -> logits (n, classes), features (n, channels).

    Parameters
    ----------
    bands, classes : int
    width : of the stem; 64 is the published one.
    depth : 18 or 50; features are 8 and 32 times the width.
    """

    def __init__(
        self, bands: int = 3, classes: int = 2, width: int = 64, depth: Literal[18, 50] = 18
    ) -> None:
        super().__init__()
        self.encoder = Backbone(bands, width, depth)
        self.head = nn.Linear(self.encoder.channels[-1], classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the mean of the last level."""
        features = self.encoder(x)[-1].mean(dim=(2, 3))
        return self.head(features), features

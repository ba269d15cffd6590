"""Multilevel feature aggregation (paper 3.4): one feature from the correlations of all levels."""

import torch
from torch import Tensor, nn


class LevelFusion(nn.Module):
    """Eq. 5: a weighted sum of the levels, with weights that are trained with the network.

    Args:
        mode: ``softmax`` of scalars that start at 1 (inferred from SiamRPN++), ``raw`` scalars that
            start at 1 / levels, or ``fixed`` weights 1 / levels. All start as the same function.
    """

    def __init__(self, levels: int, mode: str = "softmax") -> None:
        super().__init__()
        self.mode = mode
        start = torch.ones(levels) if mode == "softmax" else torch.full((levels,), 1.0 / levels)
        if mode == "fixed":
            self.register_buffer("scalars", start, persistent=False)
        else:
            self.scalars = nn.Parameter(start)

    def weights(self) -> Tensor:
        """Return the w of eq. 5, (levels,), shallowest level first."""
        return self.scalars.softmax(dim=0) if self.mode == "softmax" else self.scalars

    def forward(self, correlations: list[Tensor]) -> Tensor:
        """Return the weighted sum of tensors of one shape, one per level."""
        weighted = [w * g for w, g in zip(self.weights(), correlations, strict=True)]
        return torch.stack(weighted).sum(dim=0)

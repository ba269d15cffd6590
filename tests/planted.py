"""A network whose answers are planted, so that what a tracker makes of them can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from e3sn_lib.model.network import Search, Template
from e3sn_lib.model.windows import Cells


class Planted(nn.Module):
    """Sees every object at one anchor and cell, with given box offsets, and as a square of given side in every window.

    Args:
        anchor: 0 to 4; 2 is the 64 px square.
        row, column: of the 25 x 25 cells.
        offsets: dx, dy, log w, log h at that anchor.
        side: of the square around the middle of a window, in crop pixels.
    """

    config = None

    def __init__(
        self,
        anchor: int = 2,
        row: int = 12,
        column: int = 12,
        offsets: tuple[float, ...] = (0, 0, 0, 0),
        side: float = 64,
    ) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.backbone = SimpleNamespace(skip_zero_taps=lambda: None)
        self.place, self.offsets, self.side = (anchor, row, column), torch.tensor(offsets), side
        self.seen: list[Tensor] = []
        """Every batch of search crops."""

    def encode_template(self, image: Tensor) -> Template:
        one = torch.zeros(len(image), 1, 1, 1)
        return Template(one, one, (one,))

    def encode_search(self, image: Tensor) -> Search:
        self.seen.append(image)
        return Search(None, torch.zeros(len(image), 1), 32)  # type: ignore[arg-type]

    def locate(self, template: Template, search: Search) -> tuple[Tensor, Tensor]:
        count = len(search.neck)
        cls, loc = torch.zeros(count, 2, 5, 25, 25), torch.zeros(count, 4, 5, 25, 25)
        cls[:, 1] = -30
        cls[:, 1, *self.place] = 30
        loc[:, :, *self.place] = self.offsets.float()
        return cls, loc

    def segment(self, template: Template, search: Search, cells: Cells) -> Tensor:
        inside = (torch.arange(127) + 0.5 - 63.5).abs() < self.side / 2
        square = torch.where(inside[:, None] & inside[None], 20.0, -20.0)
        return square.expand(len(cells.image), -1, -1)

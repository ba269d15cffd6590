"""The torch network behind a tracker: for GPUs, and as the reference of the exported graphs."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from e3sn_lib.model.device import precision_of
from e3sn_lib.model.network import E3SN, Search, Template, fold_batchnorm
from e3sn_lib.model.windows import Cells


class TorchBackend:
    """A network in torch, as a `Backend`: a copy with batch-norm folded and weights cast once.

    The network is put into evaluation mode. The copy does not see its later changes. A network that
    is folded already is used as it is, in its own precision. For `precision` see `precision_of`.
    """

    def __init__(self, model: E3SN, precision: str = "fp32") -> None:
        self.device = next(model.parameters()).device
        self.dtype = precision_of(precision, self.device)
        self.model = self.network = model.eval()
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            self.network = fold_batchnorm(model).to(self.dtype)
            self.network.to(memory_format=torch.channels_last)
            self.network.mean, self.network.std = model.mean, model.std  # always in fp32
        digest = hashlib.sha256(f"torch {self.dtype} {model.config}".encode())
        for name, value in model.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self.identity = digest.hexdigest()  # of settings, weights and precision, as they are now

    @torch.inference_mode()
    def encode_template(self, crops: NDArray[np.uint8]) -> Template:
        """See `Backend`."""
        return self.network.encode_template(self._images(crops))

    @torch.inference_mode()
    def search(
        self, crops: NDArray[np.uint8], template: Template
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Search]:
        """See `Backend`."""
        search = self.network.encode_search(self._images(crops))
        cls, loc = self.network.locate(template, search)
        return cls.cpu().numpy(), loc.cpu().numpy(), search

    @torch.inference_mode()
    def segment(
        self, template: Template, features: Search, cells: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `Backend`."""
        rows, columns = torch.from_numpy(cells.T.copy()).to(self.device)
        chosen = Cells(torch.arange(len(cells), device=self.device), rows, columns)
        return self.network.segment(template, features, chosen).cpu().numpy()

    def _images(self, crops: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2)

"""Write a trained network as ONNX graphs that run without this package.

Three graphs with a fixed batch of one object: the template's filters, one search crop, the mask of one window. They share one
file of weights. `e3sn_lib.backends` reads the folder; the README in it explains the files to other programs.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from e3sn_lib.config import AugmentConfig, Profile, StageConfig, TrainSetConfig
from e3sn_lib.data.pairs import PairDataset
from e3sn_lib.data.types import TrackSet
from e3sn_lib.errors import InputError
from e3sn_lib.model.network import E3SN, Search, Template, fold_batchnorm

OPSET = 17
CALIBRATION_CROPS = 50
CALM = AugmentConfig(
    template_shift=0, template_scale=0, search_shift=24, search_scale=0.1, blur=0, grey=0, flip=0, colour=0
)
"""Crops for calibration are as tracking sees them: no artificial colours, the object a little off the middle."""
FLOAT = ("network/backbone/conv1", "network/rpn/cls_head", "network/rpn/loc_head")


class TemplateGraph(nn.Module):
    """A template crop to the filters of each branch."""

    def __init__(self, network: E3SN) -> None:
        super().__init__()
        self.network = network

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        template = self.network.encode_template(crop.permute(0, 3, 1, 2))
        return (template.cls, template.loc, *template.levels)


class SearchGraph(TemplateGraph):
    def forward(self, crop: Tensor, cls_kernel: Tensor, loc_kernel: Tensor) -> tuple[Tensor, ...]:
        search = self.network.encode_search(crop.permute(0, 3, 1, 2))
        cls, loc = self.network.locate(Template(cls_kernel, loc_kernel, ()), search)
        features = search.features
        return cls, loc, features.p0, features.p1, features.p2, search.neck


class MaskGraph(TemplateGraph):
    def forward(self, *inputs: Tensor) -> Tensor:
        *kernels, p0, p1, p2, neck = inputs
        correlations = self.network.mask.at_windows(tuple(kernels), p1, p2, neck)
        return self.network.refine(self.network.mask.fusion(correlations), p0, p1, p2)

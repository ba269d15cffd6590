"""Make int8 graphs: static quantisation, calibrated on crops of training images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from e3sn_lib.config import AugmentConfig, Profile, StageConfig
from e3sn_lib.data.pairs import PairDataset, Source
from e3sn_lib.errors import InputError
from e3sn_lib.tracking.backends import MASK, SEARCH, TEMPLATE

COUNT = 50
PART = 5
"""Samples that the calibrator sees at once. It keeps every activation: 190 need more than 24 GB."""
_OFF = ("template_shift", "template_scale", "blur", "grey", "flip", "colour")
AUGMENT = AugmentConfig(search_shift=24, search_scale=0.1, **dict.fromkeys(_OFF, 0))
"""Crops as tracking sees them: natural colours, a true template, a search crop from a last box that
is a little wrong."""
_HEADS = ("/rpn/cls_head/", "/rpn/loc_head/", "/rpn/cls/Conv", "/rpn/loc/Conv")
FLOAT = {
    TEMPLATE: ("/backbone/conv1/",),
    SEARCH: ("/backbone/conv1/", *_HEADS),
    MASK: ("/refine/post1/", "/refine/v0/", "/refine/h0/", "/refine/post2/"),
}
"""Layers that stay in float, by the start of their names. On held-out training sequences, int8 in
these layers changed boxes and masks most, and they take little time."""


class Sample(NamedTuple):
    """What a tracker sees of one object."""

    template: NDArray[np.uint8]
    """(127, 127, 3) RGB."""
    search: NDArray[np.uint8]
    """(255, 255, 3) RGB."""
    cell: tuple[int, int]
    """Row and column where the object is; any, if no anchor fits its shape."""


def calibration_samples(profile: Profile, sources: Sequence[Source]) -> list[Sample]:
    """Draw crops of training images as tracking sees them; raises InputError if there are no
    training sets, or if an image of theirs cannot be read."""
    if not sources:
        raise InputError("int8 is calibrated on training images; give --data or --calibration")
    settings = replace(profile, augment=AUGMENT, seed=0)
    dataset = PairDataset(list(sources), settings, StageConfig(negative_pairs=0.0))
    pairs = [dataset[number] for number in range(COUNT)]
    if problems := [problem for pair in pairs for problem in pair.problems]:
        raise InputError(f"calibration: {problems[0]}")
    return [Sample(pair.template, pair.search, tuple(pair.cells[0].tolist())) for pair in pairs]


def quantise(
    path: Path, samples: Sequence[Sample], inputs: Callable[[Sample], Mapping[str, Any]]
) -> None:
    """Replace a float graph by its int8 version; its name decides which layers stay in float.

    Weights are scaled per channel, activations per tensor by their extremes over the samples. The
    number of samples must be a multiple of `PART`.
    """
    model = onnx.load(path)
    add_pre_process_metadata(model)  # else the quantiser warns
    onnx.save(model, path)
    names = [node.name for node in model.graph.node]
    quantize_static(
        path,
        path,
        _Reader(samples, inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[name for name in names if name.startswith(FLOAT[path.name])],
        extra_options={"CalibStridedMinMax": PART},
    )


@dataclass
class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Inputs for the calibrator, which calls `set_range` before it asks for them."""

    samples: Sequence[Sample]
    inputs: Callable[[Sample], Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.samples)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.remaining = iter(self.samples[start_index:end_index])

    def get_next(self) -> Mapping[str, Any] | None:
        sample = next(self.remaining, None)
        return self.inputs(sample) if sample else None

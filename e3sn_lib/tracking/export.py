"""Write a trained network as ONNX graphs, which run without torch and without this package.

Each of the three graphs is for one object: a template crop to filters; a search crop to scores,
boxes and features; the windows of one cell to a mask. They share one file of weights.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from e3sn_lib.config import Profile
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_text, temporary_path, write_json, write_text
from e3sn_lib.geometry import CELLS, CONTEXT, STRIDE, TEMPLATE_SIZE, WINDOW_MARGIN, anchor_sizes
from e3sn_lib.model import refine
from e3sn_lib.model.network import E3SN, Template, centre_of, fold_batchnorm
from e3sn_lib.tracking import backends
from e3sn_lib.tracking.backends import GRAPHS, MASK, SEARCH, TEMPLATE, WEIGHTS, Window
from e3sn_lib.tracking.quantise import Sample, quantise

OPSET = 17
README = "README.md"
EXPORTED = (*GRAPHS, WEIGHTS, README, backends.MANIFEST)
"""What a folder holds, in the order in which it is written."""
WINDOWS = {
    name: Window(size=size, step=STRIDE // stride, first=-WINDOW_MARGIN // stride)
    for name, (size, stride) in refine.WINDOWS.items()
} | {"neck": Window(size=7, step=1, first=0)}
"""Of each feature map."""
Arrays = dict[str, NDArray[Any]]


class _Graph(nn.Module):
    """A part of the network with named inputs and outputs."""

    def __init__(self, network: E3SN, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs = network.eval(), inputs, outputs

    @torch.inference_mode()
    def run(self, known: Arrays) -> Arrays:
        """Compute the outputs in torch; of what is known, take the inputs."""
        outputs = self(*(torch.from_numpy(known[name]) for name in self.inputs))
        return {name: value.numpy() for name, value in zip(self.outputs, outputs, strict=True)}


class _TemplateGraph(_Graph):
    """A template crop (1, 127, 127, 3) to the filters of classes, of boxes, of each mask level."""

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        template = self.network.encode_template(crop.permute(0, 3, 1, 2))
        return template.cls, template.loc, *template.levels


class _SearchGraph(_Graph):
    """A search crop (1, 255, 255, 3) and two filters to class logits, box offsets and features."""

    def forward(self, crop: Tensor, cls_filter: Tensor, loc_filter: Tensor) -> tuple[Tensor, ...]:
        search = self.network.encode_search(crop.permute(0, 3, 1, 2))
        cls, loc = self.network.locate(Template(cls_filter, loc_filter, ()), search)
        return cls, loc, *search.features[:3], search.neck


class _MaskGraph(_Graph):
    """A filter of each level and the windows of one cell to mask logits (1, 127, 127)."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        *filters, p0, p1, p2, neck = inputs
        windows = {2: centre_of(p1, 15), 3: centre_of(p2, 7), 4: neck}
        correlation = self.network.mask
        levels = correlation.at_windows(filters, [windows[level] for level in correlation.names])
        return (self.network.refine(correlation.fusion(levels), p0, p1, p2),)


def graphs_of(network: E3SN) -> dict[str, _Graph]:
    """Return the parts of a network by the names of their files."""
    levels = [f"level{level}_filter" for level in network.mask.names]
    ranking = ["cls_filter", "loc_filter"]
    return {
        TEMPLATE: _TemplateGraph(network, ["crop"], [*ranking, *levels]),
        SEARCH: _SearchGraph(network, ["crop", *ranking], ["cls", "loc", *WINDOWS]),
        MASK: _MaskGraph(network, [*levels, *WINDOWS], ["logits"]),
    }


def graph_inputs(graphs: Mapping[str, _Graph], name: str, sample: Sample) -> Arrays:
    """Return the inputs of a graph, computed by the graphs before it."""
    known: Arrays = {"crop": sample.template[None]}
    if name != TEMPLATE:
        known = graphs[TEMPLATE].run(known) | {"crop": sample.search[None]}
    if name == MASK:
        maps = graphs[SEARCH].run(known)
        for key, window in WINDOWS.items():
            known[key] = backends.cut_window(maps[key], *sample.cell, window)
    return {key: known[key] for key in graphs[name].inputs}


def export_model(
    model: E3SN,
    profile: Profile,
    out: Path,
    samples: Sequence[Sample] = (),
    origin: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Write the graphs, their weights, ``export.json`` and ``README.md`` to a folder.

    Return the largest difference from torch in fp32 of each output that is a logit or an offset.
    Raises InputError if the folder holds files of something else.

    Args:
        profile: that it came with; its settings of inference go along.
        out: a new folder, or that of an earlier export, which is replaced.
        samples: to calibrate int8 on, see `calibration_samples`; none: fp32.
        origin: what is known of the model, such as its file's name and digest.
        accuracy: scores of these graphs, for the record.
    """
    with temporary_path(out / "export") as work:  # it deletes what a killed export left there
        there = {each.name for each in out.iterdir()}
        is_export = {backends.MANIFEST, *GRAPHS} <= there
        is_part_of_one = GRAPHS[0] in there and there <= {*EXPORTED}  # its export was killed
        if there and not is_export and not is_part_of_one:
            advice = "give a new folder, or that of an earlier export"
            raise InputError(f"{out} holds other files; {advice}")
        work.mkdir()
        graphs = graphs_of(fold_batchnorm(model).cpu())
        for graph, module in graphs.items():
            _write_graph(work / graph, module, graph_inputs(graphs, graph, _noise()))
            if samples:
                quantise(work / graph, samples, partial(graph_inputs, graphs, graph))
        _share_weights(work)
        names = (*GRAPHS, WEIGHTS)
        digests = {each: hashlib.sha256((work / each).read_bytes()).hexdigest() for each in names}
        differences = _differences(graphs, work, samples[0] if samples else _noise())
        content = {
            "format": backends.FORMAT,
            "precision": "int8" if samples else "fp32",
            "model": {"variant": profile.variant, **(origin or {})},
            "sizes": {"template": TEMPLATE_SIZE, "search": 255, "cells": CELLS, "stride": STRIDE},
            "context": CONTEXT,
            "anchors_wh": anchor_sizes().tolist(),
            "windows": {name: asdict(window) for name, window in WINDOWS.items()},
            "track": asdict(profile.track),
            "files": digests,
            "accuracy": dict(accuracy or {}),
        }
        write_text(work / README, read_text(backends.PACKAGED / README))
        write_json(work / backends.MANIFEST, content)
        for each in EXPORTED:  # a mixture of two exports is refused, as the digests do not fit
            (work / each).replace(out / each)
    return differences


def _noise() -> Sample:
    """Return random crops, for a model without images."""
    rng = np.random.default_rng(0)
    template, search = (rng.integers(0, 256, (size, size, 3), np.uint8) for size in (127, 255))
    return Sample(template, search, (CELLS // 2, CELLS // 2))


def _differences(graphs: Mapping[str, _Graph], folder: Path, sample: Sample) -> dict[str, float]:
    found = {}
    for name, module in graphs.items():
        given = graph_inputs(graphs, name, sample)
        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        theirs = session.run(module.outputs, given)
        for (key, ours), other in zip(module.run(given).items(), theirs, strict=True):
            if key in ("cls", "loc", "logits"):
                found[key] = float(np.abs(ours - other).max())
    return found


def _write_graph(path: Path, module: _Graph, inputs: Arrays) -> None:
    """Trace a graph and compute what is constant in it."""
    traced, given = path.with_suffix(".traced"), tuple(map(torch.from_numpy, inputs.values()))
    names: dict[str, Any] = {"input_names": module.inputs, "output_names": module.outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants, as they should
        torch.onnx.export(module, given, traced, **names, opset_version=OPSET, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(traced, options, providers=["CPUExecutionProvider"])
    traced.unlink()


def _share_weights(folder: Path) -> None:
    """Move weights to one file; what graphs have in common, most of the backbone, is there once.
    Graphs also name fewer sets of operators: those that they use."""
    places: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for name in GRAPHS:
            model = onnx.load(folder / name)
            used = {node.domain for node in model.graph.node}
            for unused in [each for each in model.opset_import if each.domain not in used]:
                model.opset_import.remove(unused)
            for tensor in model.graph.initializer:
                values = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(values) < 1024:
                    continue
                if values not in places:
                    file.write(bytes(-file.tell() % 64))
                    places[values] = file.tell()
                    file.write(values)
                tensor.ClearField("float_data")
                tensor.raw_data = values
                set_external_data(tensor, WEIGHTS, places[values], len(values))
                tensor.ClearField("raw_data")
            onnx.save(model, folder / name)

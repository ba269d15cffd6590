"""Write a trained network as ONNX graphs, which run without torch and without this package.

Each of the three graphs is for one object: a template crop to filters, a search crop to scores, boxes and features, and the
windows of one cell to a mask. They share one file of weights. `e3sn_lib.tracking.backends` reads the folder.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from e3sn_lib.config import Profile
from e3sn_lib.files import write_json, write_text
from e3sn_lib.geometry import CELLS, CONTEXT, STRIDE, TEMPLATE_SIZE, WINDOW_MARGIN, anchor_sizes
from e3sn_lib.model.network import E3SN, Template, centre_of, fold_batchnorm
from e3sn_lib.model.refine import WINDOWS as SKIPS
from e3sn_lib.tracking.backends import FORMAT, GRAPHS, MANIFEST, cut_window
from e3sn_lib.tracking.quantise import BLANK, Sample, quantise

OPSET = 17
WEIGHTS = "weights.bin"
WINDOWS = {name: {"size": size, "step": STRIDE // stride, "first": -(WINDOW_MARGIN // stride)} for name, (size, stride) in SKIPS.items()}
WINDOWS["neck"] = {"size": 7, "step": 1, "first": 0}
"""For each feature map its windows: rows and columns, by how much they move from cell to cell, where the first begins."""


class TemplateGraph(nn.Module):
    """A template crop (1, 127, 127, 3) to the filters of each branch."""

    def __init__(self, network: E3SN) -> None:
        super().__init__()
        self.network = network
        self.inputs = ["crop"]
        self.outputs = ["cls_filter", "loc_filter", *(f"level{level}_filter" for level in network.mask.names)]

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        template = self.network.encode_template(crop.permute(0, 3, 1, 2))
        return template.cls, template.loc, *template.levels


class SearchGraph(nn.Module):
    """A search crop (1, 255, 255, 3) and two filters to class logits, box offsets and features."""

    def __init__(self, network: E3SN) -> None:
        super().__init__()
        self.network = network
        self.inputs = ["crop", "cls_filter", "loc_filter"]
        self.outputs = ["cls", "loc", *WINDOWS]

    def forward(self, crop: Tensor, cls_filter: Tensor, loc_filter: Tensor) -> tuple[Tensor, ...]:
        search = self.network.encode_search(crop.permute(0, 3, 1, 2))
        cls, loc = self.network.locate(Template(cls_filter, loc_filter, ()), search)
        return cls, loc, search.features.p0, search.features.p1, search.features.p2, search.neck


class MaskGraph(nn.Module):
    """A filter of each level and the windows of one cell to mask logits (1, 127, 127)."""

    def __init__(self, network: E3SN) -> None:
        super().__init__()
        self.network = network
        self.inputs = [*(f"level{level}_filter" for level in network.mask.names), *WINDOWS]
        self.outputs = ["logits"]

    def forward(self, *inputs: Tensor) -> Tensor:
        *filters, p0, p1, p2, neck = inputs
        correlation, sources = self.network.mask, {2: centre_of(p1, 15), 3: centre_of(p2, 7), 4: neck}
        levels = correlation.at_windows(filters, [sources[level] for level in correlation.names])
        return self.network.refine(correlation.fusion(levels), p0, p1, p2)


class Graphs:
    """The three graphs of a network in torch, and their inputs."""

    def __init__(self, network: E3SN) -> None:
        self.network = fold_batchnorm(network.cpu())
        self.modules = dict(zip(GRAPHS, (TemplateGraph(self.network), SearchGraph(self.network), MaskGraph(self.network)), strict=True))

    @torch.inference_mode()
    def inputs(self, name: str, sample: Sample) -> dict[str, NDArray[Any]]:
        """Return the inputs of a graph, computed by the graphs before it."""
        known: dict[str, NDArray[Any]] = {"crop": sample.template[None]}
        for graph, module in self.modules.items():
            if graph == "search.onnx":
                known["crop"] = sample.search[None]
            if graph == "mask.onnx":
                known |= {key: cut_window(known[key], *sample.cell, **window) for key, window in WINDOWS.items()}
            given = {key: known[key] for key in module.inputs}
            if graph == name:
                return given
            outputs = module(*(torch.from_numpy(value) for value in given.values()))
            known |= dict(zip(module.outputs, (value.numpy() for value in outputs), strict=True))
        raise ValueError(name)


def export_model(
    model: E3SN,
    profile: Profile,
    out: Path,
    samples: Sequence[Sample] = (),
    origin: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, float] | None = None,
) -> None:
    """Write the graphs, their weights, ``export.json`` and ``README.md`` to a folder.

    Args:
        model: a trained network.
        profile: that it came with; its settings of inference go along.
        out: a folder; files of these names in it are replaced.
        samples: for int8, which is calibrated on them; none: fp32.
        origin: what is known of the model, such as its file's name and digest.
        accuracy: scores of these graphs, for the record.
    """
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".export.", suffix=".tmp") as name:
        work = Path(name)
        graphs = Graphs(model)
        for graph, module in graphs.modules.items():
            _write_graph(work / graph, module, graphs.inputs(graph, BLANK))
            if samples:
                quantise(work / graph, samples, lambda sample, graph=graph: graphs.inputs(graph, sample))
        _share_weights(work)
        manifest = {
            "format": FORMAT,
            "precision": "int8" if samples else "fp32",
            "model": {"variant": profile.variant, **(origin or {})},
            "sizes": {"template": TEMPLATE_SIZE, "search": len(BLANK.search), "cells": CELLS, "stride": STRIDE},
            "context": CONTEXT,
            "anchors_wh": anchor_sizes().tolist(),
            "windows": WINDOWS,
            "track": asdict(profile.track),
            "files": {each: hashlib.sha256((work / each).read_bytes()).hexdigest() for each in (*GRAPHS, WEIGHTS)},
            "accuracy": dict(accuracy or {}),
        }
        (out / MANIFEST).unlink(missing_ok=True)  # without it, files of two exports are never taken for one
        for each in (*GRAPHS, WEIGHTS):
            (work / each).replace(out / each)
    write_text(out / "README.md", (Path(__file__).parent / "export_readme.md").read_text())
    write_json(out / MANIFEST, manifest)


def _write_graph(path: Path, module: nn.Module, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Trace a graph and fold its constants."""
    traced = path.with_suffix(".traced")
    arguments = tuple(torch.from_numpy(value) for value in inputs.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes become constants, which is wanted here
        torch.onnx.export(
            module.eval(),
            arguments,
            traced,
            input_names=module.inputs,
            output_names=module.outputs,
            opset_version=OPSET,
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(str(traced), options, providers=["CPUExecutionProvider"])
    traced.unlink()
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, path)


def _share_weights(folder: Path) -> None:
    """Move the graphs' weights to one file; what two graphs have in common, most of the backbone, is there once."""
    places: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for name in GRAPHS:
            model = onnx.load(folder / name)
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

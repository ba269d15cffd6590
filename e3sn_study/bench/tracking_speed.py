"""How fast and how good tracking is, by what computes the network."""

import hashlib
import importlib
import itertools
import json
import math
import sys
import time
import timeit
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from e3sn_lib.data.types import Video
from e3sn_lib.errors import InputError
from e3sn_lib.geometry import Image
from e3sn_lib.model.device import machine
from e3sn_lib.model.torch_backend import TorchBackend
from e3sn_lib.model.weights import load_model, load_profile_of, read_metadata
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.tracking.backends import Backend, OnnxBackend, load_export
from e3sn_lib.tracking.export import export_model
from e3sn_lib.tracking.session import Session
from e3sn_lib.tracking.tracker import Boxes, FrameResult, Targets, Tracker
from e3sn_lib.tracking.video import overlay
from e3sn_study.bench.steps import take_turns
from e3sn_study.bench.training_speed import PlainE3SN
from e3sn_study.bench.variant_costs import operations
from e3sn_study.checkout import lost_limit
from e3sn_study.evaluation.benchmark import evaluate_tracker
from e3sn_study.records.schema import BOUND, MODEL, SESSIONS

STAND_IN = "torch fp32, plain SiamMask (stand-in for the public code)"
"""This project's SiamMask network as that code computes it: fp32, batch-norm by itself, whole
correlation maps, 3x3 shortcuts in full."""
PUBLIC = "torch fp32, SiamMask's public code"
EXPORTED = ("torch fp32", "ONNX fp32", "ONNX int8")
"""The same network three times."""
SIZES = ((854, 480), (1920, 1080), (3840, 2160))
OBJECTS = (1, 2, 4, 8)
STAGES = ("crop", "search", "choose", "segment", "paste")  # the network's: search, segment


def bench_tracking(
    model: Path,
    int8: Path | None = None,
    public: Path | None = None,
    threads: int = 2,
    rounds: int = 5,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    objects: tuple[int, ...] = OBJECTS,
) -> pd.DataFrame:
    """Time steps of all contenders, for several sizes of the frame and numbers of objects.

    `int8` is the model's export, `public` a checkout for `PublicSiamMask`, if it is to be timed.
    Return one row per size, number of objects and contender: median ms of each stage, of the step
    and of drawing the overlay, which is no part of it; frames_per_second; ratio of its rate to the
    stand-in's; share of the peak that the network reaches, 0 to 1; peak (see `_peaks`) in GFLOP/s.
    """
    torch.set_num_threads(threads)
    peaks, rows = _peaks(), []
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows: graphs are open
        plain = PlainE3SN(load_profile("paper", "siammask").model)
        torch.nn.init.zeros_(plain.rpn.loc_head.get_parameter("3.weight"))  # possible boxes
        stand_in = TorchBackend(plain)
        stand_in.network = stand_in.model  # batch-norm is not folded
        contenders = {STAND_IN: stand_in} | _exported(model, int8, threads, Path(folder))
        contenders["torch bf16"] = TorchBackend(contenders["torch fp32"].model, "bf16")
        if public:
            contenders[PUBLIC] = PublicSiamMask(public)
        measured = [name for name in contenders if name.startswith("torch fp32")]
        works = {name: operations(contenders[name]) for name in measured}
        for (width, height), count in itertools.product(sizes, objects):
            times = _medians(contenders, (height, width), count, rounds)
            for name, seconds in times.items():
                step, slowest = (sum(times[key][s] for s in STAGES) for key in (name, STAND_IN))
                work = count * works.get(name, works["torch fp32"])
                peak = peaks[name.split()[1].strip(",")]
                share = work / (seconds["search"] + seconds["segment"]) / peak
                row = {"width": width, "height": height, "objects": count, "contender": name}
                row |= {f"{stage}_ms": 1000 * value for stage, value in seconds.items()}
                row |= {"step_ms": 1000 * step, "frames_per_second": 1 / step}
                rows.append(row | {"ratio": slowest / step, "share": share, "peak": peak / 1e9})
    return pd.DataFrame(rows).assign(threads=threads, machine=machine("cpu")["machine"])


def bench_exports(
    model: Path, int8: Path | None, sequences: list[Video], threads: int = 2
) -> pd.DataFrame:
    """Score a model and its exported graphs on the sequences of a benchmark.

    Return one row per contender of `EXPORTED`: run of the model; number of sequences; J-Mean and
    F-Mean, 0 to 1; J_bound and F_bound, the same for masks in true boxes; fps, object-frames per
    second as SiamMask counts.
    """
    torch.set_num_threads(threads)
    run, config = read_metadata(model).get("run", model.name), load_profile_of(model).track
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows: graphs are open
        backends = _exported(model, int8, threads, Path(folder, "fp32"))
        trackers = {name: Tracker(backend, config) for name, backend in backends.items()}
        table = _scored(trackers, sequences, in_true_boxes=True)
        return table.assign(run=run, threads=threads)


def bench_sessions(int8: Path | None, sequences: list[Video], threads: int = 2) -> pd.DataFrame:
    """Score the steps that a session takes beside the paper's, one kind after the other.

    Return one row per contender of `SESSIONS`, as `bench_exports`, but without true boxes; and
    steps: of the network for each object in each frame.
    """
    backend, lost_below = load_export(int8, threads), lost_limit(int8)
    make = partial(_InSession, backend, keep_lost=True)
    made = (
        make(fit_edges=False, resized_by=math.inf, colour_weight=0),
        make(fit_edges=False, resized_by=math.inf),
        make(fit_edges=False),
        make(fit_edges=False, lost_below=lost_below),
        make(lost_below=lost_below),
        make(lost_below=lost_below, keep_lost=False),
    )
    table = _scored(dict(zip(SESSIONS, made, strict=True)), sequences)
    known = backend.manifest.model
    frames = sum((len(video) - 1) * len(video.object_ids()) for video in sequences)
    steps = [each.steps / frames for each in made]
    return table.assign(run=known.get("run", "unknown"), threads=threads, steps=steps)


def _scored(
    trackers: Mapping[str, Tracker], sequences: list[Video], in_true_boxes: bool = False
) -> pd.DataFrame:
    """Return J, F and speed of trackers by their names."""
    means = ["J-Mean", "F-Mean"]
    rows = []
    for name, tracker in trackers.items():
        print(name)
        with TemporaryDirectory() as folder:
            scores, timing = evaluate_tracker(
                tracker, sequences, Path(folder), extras=in_true_boxes, thresholds=()
            )
        fps = (timing["frames"] - 1) * timing["objects"] / timing["seconds_tracking"]
        row = {"contender": name, "sequences": len(sequences), "fps": fps.mean()}
        by_method = scores.groupby("method")[means].mean()
        row |= dict(by_method.loc[MODEL])
        if in_true_boxes:
            row |= dict(zip(("J_bound", "F_bound"), by_method.loc[BOUND], strict=True))
        rows.append(row)
    return pd.DataFrame(rows).assign(machine=machine("cpu")["machine"])


def _exported(model: Path, int8: Path | None, threads: int, folder: Path) -> dict[str, Any]:
    """Return the backends of `EXPORTED`; the fp32 graphs are written to `folder`. Raises InputError
    if `int8` is an export of another model."""
    ours, profile = load_model(model, "cpu")
    quantised = load_export(int8, threads)
    origin = quantised.manifest.model
    if origin.get("sha256") != hashlib.sha256(model.read_bytes()).hexdigest():
        remedy = f"e3sn export {model} OUT --precision int8, then --export OUT"
        raise InputError(f"the int8 graphs are no export of {model}; make its own: {remedy}")
    export_model(ours, profile, folder)
    graphs = OnnxBackend(folder, threads), quantised
    return dict(zip(EXPORTED, (TorchBackend(ours), *graphs), strict=True))


class _InSession(Tracker):
    """A tracker whose objects are followed in a `Session`; it counts the steps of each object."""

    def __init__(self, backend: Backend, **options: Any) -> None:
        super().__init__(backend)
        self.options, self.steps = options, 0

    def run(self, frames: Iterable[Image], boxes_frame_xywh: Boxes) -> Iterator[Any]:
        """Yield what the session sees in each frame."""
        session = Session(self, **self.options)
        for box in boxes_frame_xywh:
            session.add(box)
        yield from map(session.step, frames)

    def step(
        self, frame: Image, targets: Targets, move: bool = True, colour_weight: float = 0.0
    ) -> tuple[Targets, FrameResult]:
        """See `Tracker.step`."""
        self.steps += len(targets.size_wh) if move else 0
        return super().step(frame, targets, move, colour_weight)


class PublicSiamMask:
    """SiamMask's public code as a `Backend`, with random weights.

    It makes the calls of that code's own tracker, one object after the other. As there, torch keeps
    what gradients would need, and the 63x63 masks of all windows are computed too. The checkout is
    of https://github.com/foolwood/SiamMask. Raises InputError if its code cannot be imported.
    """

    def __init__(self, checkout: Path) -> None:
        folder = checkout / "experiments" / "siammask_sharp"
        sys.path[:0] = [str(folder), str(checkout)]
        try:
            settings = json.loads((folder / "config_davis.json").read_text())
            self.network = importlib.import_module("custom").Custom(anchors=settings["anchors"])
        except (OSError, ImportError, ValueError) as error:
            raise InputError(f"{checkout} is no checkout of SiamMask's code: {error}") from error
        finally:
            del sys.path[:2]
        self.network.eval()
        self.network.rpn_model.loc.head[-1].weight.data.zero_()  # boxes keep a possible size
        warnings.filterwarnings("ignore", "`?nn.functional.upsample", UserWarning)

    def encode_template(self, crops: Image) -> list[torch.Tensor]:
        """See `Backend`."""
        return [self.network.features(image) for image in self._images(crops)]

    def search(self, crops: Image, template: list[torch.Tensor]) -> tuple[Any, ...]:
        """See `Backend`."""
        found, net = [], self.network
        for image, kernel in zip(self._images(crops), template, strict=True):
            net.zf = kernel
            cls, loc, _ = net.track_mask(image)
            features = net.feature, net.corr_feature
            found.append((cls.detach().numpy(), loc.detach().numpy(), features))
        cls, loc, features = zip(*found, strict=True)
        return np.concatenate(cls), np.concatenate(loc), features

    def segment(self, template: Any, features: Any, cells: NDArray[np.int64]) -> NDArray[Any]:
        """See `Backend`."""
        masks, net = [], self.network
        for each, cell in zip(features, cells.tolist(), strict=True):
            net.feature, net.corr_feature = each
            masks.append(net.track_refine(cell).detach().numpy().reshape(1, 127, 127))
        return np.concatenate(masks)

    def _images(self, crops: Image) -> torch.Tensor:
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float().contiguous()[:, None]


def _timed(backend: Backend, marks: list[float]) -> Any:
    """Return a backend that notes when its calls begin and end."""

    @contextmanager
    def noted() -> Iterator[None]:
        marks.append(time.perf_counter())
        yield
        marks.append(time.perf_counter())

    search, segment = noted()(backend.search), noted()(backend.segment)  # as decorators
    return SimpleNamespace(encode_template=backend.encode_template, search=search, segment=segment)


def _medians(
    contenders: dict[str, Backend], frame_hw: tuple[int, int], count: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Return each contender's median seconds of each stage and of the overlay."""
    (height, width), marks = frame_hw, list[float]()
    frame: Image = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), np.uint8)
    boxes = [[k * width / (count + 1), height / 3, height / 6, height / 6] for k in range(count)]

    def step(tracker: Tracker, targets: Targets) -> NDArray[np.float64]:
        marks[:] = [time.perf_counter()]
        _, result = tracker.step(frame, targets)
        marks.append(time.perf_counter())
        overlay(frame, result.ids)
        return np.diff([*marks, time.perf_counter()])

    trackers = {name: Tracker(_timed(each, marks)) for name, each in contenders.items()}
    steps = {name: partial(step, each, each.start(frame, boxes)) for name, each in trackers.items()}
    return {
        name: dict(zip((*STAGES, "overlay"), np.median(times, axis=0).tolist(), strict=True))
        for name, times in take_turns(steps, rounds).items()
    }


def _peaks(side: int = 1536, channels: int = 256, rows: int = 64) -> dict[str, float]:
    """Return operations per second in each precision: those of a large matrix product or of a 3x3
    convolution. The faster one counts, and which one it is depends on the processor."""
    product, convolution = 2 * side**3, 2 * 9 * channels**2 * (rows - 2) ** 2

    def rate(work: int, call: Callable[..., Any], *given: Any) -> float:
        return work / min(timeit.repeat(partial(call, *given), number=1, repeat=10))

    peaks = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        square = torch.ones(side, side, dtype=kind)
        maps, filters = (
            torch.ones(*shape, dtype=kind).to(memory_format=torch.channels_last)
            for shape in ((1, channels, rows, rows), (channels, channels, 3, 3))
        )
        by_product = rate(product, torch.mm, square, square)
        peaks[name] = max(by_product, rate(convolution, torch.conv2d, maps, filters))
    square = torch.ones(side, side, dtype=torch.int8)
    by_torch = rate(product, torch._int_mm, square, square)
    return peaks | {"int8": max(by_torch, rate(product, _int8_product(side)))}


def _int8_product(side: int) -> Callable[[], Any]:
    """Return a matrix product in int8 by ONNX Runtime."""
    import onnxruntime
    from onnx.parser import parse_model

    model = parse_model(f"""<ir_version: 9, opset_import: ["": 17]>
        product (uint8[{side}, {side}] a) => (int32[{side}, {side}] product)
        <int64[2] shape = {{{side}, {side}}}> {{
            b = ConstantOfShape <value = int8[1] {{1}}> (shape)
            product = MatMulInteger (a, b)
        }}""")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return partial(session.run, None, {"a": np.ones((side, side), np.uint8)})

"""What a run will cost, before it is run: its phases, arithmetic and memory of a step, and an estimate for common GPUs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from e3sn_lib.config import Profile
from e3sn_lib.training.schedule import StagePlan, learning_rate, plan
from e3sn_study.bench.steps import Stepper, noise


class Gpu(NamedTuple):
    """Peak figures of a graphics card."""

    half_tflops: float
    """Matrix products of 16-bit numbers, summed in 32 bits, without sparsity."""
    bandwidth: float
    """GB/s."""
    memory: float
    """GB."""
    source: str


GPUS = {
    "A100 40 GB": Gpu(312.0, 1555.0, 40.0, "NVIDIA A100 datasheet"),
    "RTX 3090": Gpu(71.0, 936.0, 24.0, "NVIDIA GA102 whitepaper"),
    "TITAN RTX": Gpu(130.5, 672.0, 24.0, "NVIDIA Turing whitepaper; the paper's card"),
}
ARITHMETIC_SHARE, BANDWIDTH_SHARE = 0.4, 0.7
"""Of the peak figures, assumed to be reached; arithmetic and memory traffic are assumed not to overlap."""
GPU_OVERHEAD_GB = 1.0
"""CUDA's context and cuDNN's workspace, assumed."""


@dataclass(frozen=True)
class Phase:
    """Steps of a stage that cost the same: with the backbone frozen, or with its trained layers."""

    stage: StagePlan
    backbone: bool
    first_step: int
    """Within the stage."""
    steps: int

    def rates(self, profile: Profile) -> tuple[float, float]:
        """First and last learning rate."""
        ends = (self.first_step, self.first_step + self.steps - 1)
        first, last = (learning_rate(step, self.stage.steps, profile.train, self.stage.config) for step in ends)
        return first, last


@dataclass(frozen=True)
class StepCost:
    """Of one training step, by pair where it grows with the batch."""

    flops: float
    """Floating-point operations of convolutions and matrix products per pair; a multiplication and an addition are two."""
    moved: float
    """Bytes that kernels read and write per pair, if none are fused."""
    per_pair: float
    fixed: float
    """Bytes held at the step's peak beside weights and optimiser: for each pair, and once (gradients among them)."""

    def memory(self, batch: int) -> float:
        return self.fixed + self.per_pair * batch


class PhaseCost(NamedTuple):
    """A phase's pairs, what its steps cost, and the bytes of weights and optimiser."""

    pairs: int
    step: StepCost
    held: int


def phases(profile: Profile) -> list[Phase]:
    """A run's phases in order."""
    found = []
    for stage in plan(profile):
        trained = stage.config.train_location and bool(profile.train.train_layers)
        border = stage.steps
        if trained:  # where the loop's progress, step / steps, first reaches the share
            border = min(max(math.ceil(round(profile.train.unfreeze_at * stage.steps, 6)), 0), stage.steps)
        found += [Phase(stage, False, 0, border), Phase(stage, True, border, stage.steps - border)]
    return [phase for phase in found if phase.steps]


def count_step(stepper: Stepper, dtype: torch.dtype, sizes: tuple[int, int] = (2, 4)) -> StepCost:
    """Arithmetic, traffic and memory of a step in `dtype`, counted while steps of two sizes are computed on noise.

    The memory is that of results which PyTorch holds at once; as measured between two batch sizes, it is linear in them.
    """
    kept, stepper.dtype = stepper.dtype, dtype
    stepper.step(noise(stepper.profile, stepper.stage, sizes[0]))  # the optimiser's state is made at the first
    counts = []
    for size in sizes:
        stepper.optimiser.zero_grad(set_to_none=True)
        with flop_counter() as flops, StepMeter() as meter:
            stepper.step(noise(stepper.profile, stepper.stage, size))
        counts.append((flops.get_total_flops() / size, meter.moved / size, meter.peak))
    stepper.dtype = kept
    (_, _, less), (operations, moved, more) = counts
    per_pair = (more - less) / (sizes[1] - sizes[0])
    return StepCost(operations, moved, per_pair, max(more - per_pair * sizes[1], 0.0))


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, which takes the weight gradient of a grouped convolution for a dense one: corrected here."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward_flops})


def _convolution_backward_flops(
    gradient: Any, features: Any, weight: Any, _bias: Any, _stride: Any, _padding: Any, _dilation: Any, transposed: bool,
    _output_padding: Any, _groups: Any, wanted: list[bool], out_shape: Any = None, **_: Any,
) -> int:  # fmt: skip
    """Each of both gradients has as many products as the convolution."""
    return (wanted[0] + wanted[1]) * int(conv_flop_count(features, weight, gradient, transposed=transposed))


class StepMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what PyTorch's kernels read and write (`moved`) and how many bytes their results hold, now and at most (`peak`)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = self.live = self.peak = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
            self.moved += sum(each.numel() * each.element_size() for each in tensors)
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    self._hold(each.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._held:
            return

        def release(_: Any) -> None:
            self.live -= size
            del self._held[key]

        self._held[key] = weakref.ref(storage, release)
        self.live += size
        self.peak = max(self.peak, self.live)


def state_bytes(stepper: Stepper) -> int:
    """Bytes of weights, batch-norm statistics and the optimiser's state after a step."""
    kept = [*stepper.model.state_dict().values(), *tree_leaves([*stepper.optimiser.state.values()])]
    return sum(each.numel() * each.element_size() for each in kept if isinstance(each, Tensor))


def gpu_seconds(gpu: Gpu, cost: StepCost) -> float:
    """Estimated seconds per pair."""
    return cost.flops / (gpu.half_tflops * 1e12 * ARITHMETIC_SHARE) + cost.moved / (gpu.bandwidth * 1e9 * BANDWIDTH_SHARE)


def gpu_estimate(gpu: Gpu, costs: Iterable[PhaseCost], batch: int) -> tuple[float, float]:
    """Hours and GB that a run with `batch` pairs per step is estimated to take on a GPU."""
    costs = list(costs)
    seconds = sum(each.pairs * gpu_seconds(gpu, each.step) for each in costs)
    return seconds / 3600, max(each.held + each.step.memory(batch) for each in costs) / 1e9 + GPU_OVERHEAD_GB


def step_seconds(computing: float, preparing: float, workers: int) -> float:
    """A step's time when its pairs are prepared beside it by `workers`, or before it by none; nan preparation counts as none."""
    if math.isnan(preparing):
        return computing
    return max(computing, preparing / workers) if workers else computing + preparing

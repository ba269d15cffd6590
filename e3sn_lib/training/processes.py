"""Training in several processes that torchrun started. A single process is a world of one."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from textwrap import shorten
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from e3sn_lib.errors import InputError


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did. Only the first of them prints.

    With GPUs each process has its own, and they talk by NCCL. Without, they talk by gloo. Raises
    InputError if another process ends before this one.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        with nullcontext() if is_first() else redirect_stdout(io.StringIO()):
            yield
    except RuntimeError as error:
        texts = "gloo", "Connection closed", "Connection reset"
        of_others = isinstance(error, dist.DistError) or any(each in str(error) for each in texts)
        if world() == 1 or not of_others:
            raise
        fault = f"another process has ended ({shorten(str(error), 200)})"
        remedy = "the same command goes on from the last checkpoint"
        raise InputError(f"{fault}; {remedy}") from error
    finally:
        dist.destroy_process_group()


def world() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return rank() == 0


@contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find what it wrote."""
    if not is_first():
        dist.barrier()
    yield
    if is_first() and dist.is_initialized():
        dist.barrier()


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def of_first(value: Any) -> Any:
    """Return the first process's value in every process."""
    shared = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    return shared[0]


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Replace batch-norm by layers that, in training, see the parts of a batch in all processes."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.BatchNorm2d:
                synced = SyncedBatchNorm(layer.num_features, layer.eps, layer.momentum)
                synced.load_state_dict(layer.state_dict())
                setattr(parent, name, synced)


class _Total(torch.autograd.Function):
    """`total` with gradients; they are summed, as the loss of every process depends on the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


class SyncedBatchNorm(nn.BatchNorm2d):
    """`torch.nn.SyncBatchNorm` for any device; torch's own runs on GPUs only."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W), in training by the statistics of all processes' features."""
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        x, axes = features.to(self.weight.dtype), (0, 2, 3)
        count = total(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = _Total.apply(x.sum(axes)) / count
        variance = _Total.apply((x - mean[:, None, None]).square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale, shift = self.weight * (variance + self.eps).rsqrt(), self.bias
        normalised = (x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]
        return normalised.to(features.dtype)

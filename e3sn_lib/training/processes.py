"""Several processes started by torchrun: what they are to each other. One process is the case of a world of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; only the first of them prints.

    On GPUs they talk by NCCL, each on its own, else by gloo.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(minutes=30))
    try:
        with Path(os.devnull).open("w") as nowhere, nullcontext() if is_first() else redirect_stdout(nowhere):
            yield
    finally:
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process does it while the others wait, and then they do: what it leaves on the disk, they find."""
    if not is_first():
        dist.barrier()
    yield
    if is_first() and dist.is_initialized():
        dist.barrier()


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let batch-norm in training see all processes' parts of a batch, as a single process would."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm


class _Total(torch.autograd.Function):
    """`total` for values that gradients go through: what each process does with the sum counts for all of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


class SyncedBatchNorm(nn.BatchNorm2d):
    """`torch.nn.SyncBatchNorm` for any device; the original knows GPUs only."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        x, axes = features.to(self.weight.dtype), (0, 2, 3)
        count = total(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = _Total.apply(x.sum(axes)) / count
        variance = _Total.apply((x - mean[:, None, None]).square().sum(axes)) / count
        with torch.no_grad():
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale, shift = self.weight * (variance + self.eps).rsqrt(), self.bias
        return ((x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]).to(features.dtype)

"""Where, and in what type, training and tracking are computed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from e3sn_lib.provenance import has_native_bf16

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """``fp32``, ``bf16``, ``fp16``, or ``auto``: half precision only where the hardware multiplies it natively."""
    if name != "auto":
        return _TYPES[name]
    if device.type in ("cpu", "cuda") and has_native_bf16(device.type):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in `dtype` where that is safe; float32 leaves everything as it is."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

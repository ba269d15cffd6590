"""Where, and in what type, training and tracking are computed."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

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


def has_native_bf16(device: str = "cpu") -> bool:
    """Whether `device` multiplies in bfloat16 by itself; elsewhere it is emulated and slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    flags = (cpuinfo("flags") or cpuinfo("Features")).split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def peak_memory_bytes() -> int:
    """The largest memory so far: allocated on the GPU if this process used it, else resident in main memory.

    Linux keeps the parent's peak in getrusage when a process is started, so the kernel's own figure is preferred where it exists.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated())
    if match := re.search(r"VmHWM:\s+(\d+) kB", _read("/proc/self/status")):
        return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpuinfo(key: str) -> str:
    match = re.search(rf"^{key}\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1] if match else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""

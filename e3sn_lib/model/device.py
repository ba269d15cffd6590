"""The hardware: where training and tracking are computed, in which number type, and its memory."""

import math
import os
import platform
import re
import sys
import time
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from e3sn_lib.errors import InputError

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """Return the number type of ``fp32``, ``bf16``, ``fp16`` or ``auto``.

    ``auto`` is bfloat16 where the hardware multiplies it natively, and on a CPU only if it is also
    faster there (see `bf16_is_faster`). Else it is float16 on a GPU, and float32 on a CPU. Raises
    InputError for another name.
    """
    if name in _TYPES:
        return _TYPES[name]
    if name != "auto":
        raise InputError(f"there is no precision {name!r}; choose from auto, {', '.join(_TYPES)}")
    if device.type == "cuda":
        return torch.bfloat16 if has_native_bf16("cuda") else torch.float16
    faster = device.type == "cpu" and has_native_bf16("cpu") and bf16_is_faster()
    return torch.bfloat16 if faster else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in `dtype` where that is safe. float32 changes nothing."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def has_native_bf16(device: str = "cpu") -> bool:
    """Return whether `device` has instructions that multiply bfloat16; else it is emulated."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


@cache
def bf16_is_faster() -> bool:
    """Return whether this CPU convolves faster in bfloat16 than in float32.

    The instructions alone do not tell: with avx512_bf16 a training step takes half the time on some
    CPUs (AMD EPYC), and 1.5 times the time on others (Xeons without amx in virtual machines). So a
    3x3 convolution of the backbone's size is timed in both types, in turns, in less than a tenth of
    a second. The best time counts: other programs can only make a turn slower.
    """
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    features = torch.ones(1, 128, 31, 31).contiguous(memory_format=torch.channels_last)
    kernel = torch.ones(128, 128, 3, 3)
    with torch.no_grad():
        for _ in range(4):  # the first turn also sets the library up
            for dtype in seconds:
                inputs = features.to(dtype), kernel.to(dtype)
                begun = time.perf_counter()
                torch.nn.functional.conv2d(*inputs, padding=1)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - begun)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def peak_memory_bytes() -> int:
    """Return the largest memory so far of this process, on the GPU if it used one. On Linux
    getrusage may report the peak of a parent process. ``/proc`` does not."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated())
    if match := re.search(r"VmHWM:\s+(\d+) kB", _read("/proc/self/status")):
        return int(match[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Let `peak_memory_bytes` count from now on; on a CPU only Linux can do so."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def machine(device: str | None = None) -> dict[str, Any]:
    """Describe this machine in JSON's types; ``machine`` is what computes, ``memory`` is bytes.

    What computes is a `device`, ``cpu`` or ``cuda``; None: the `best_device`.
    """
    cpu = _cpuinfo("model name") or platform.processor() or "unknown"
    gpu = torch.cuda.get_device_name() if (device or best_device().type) == "cuda" else None
    instructions = torch.backends.cpu.get_cpu_capability()  # they change the speed threefold
    return {
        "machine": gpu or f"{cpu} ({instructions})",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu or "none",
        "gpus": torch.cuda.device_count(),
        "bf16": has_native_bf16("cuda" if gpu else "cpu"),
        "memory": psutil.virtual_memory().total,
    }


def _cpuinfo(key: str) -> str:
    match = re.search(rf"^{key}\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1] if match else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""

"""Versions of libraries and drivers, devices and thread counts, on which results depend."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from importlib.metadata import version

import torch
import torch.cuda.nccl

Facts = dict[str, str | int | None]
DISPATCH = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that choose the CPU kernels of torch and its libraries, and thereby the rounding."""


@cache
def _driver() -> str | None:
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            return driver_version(file.readline())
    except OSError:
        return None


def driver_version(line: str) -> str | None:
    """Return the version in the first line of NVIDIA's report, whose format differs for open kernel modules."""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", line)
    return found[0] if found else None


@cache
def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment() -> Facts:
    """Return versions, devices and thread counts of this process; None for absent ones."""
    cuda = torch.cuda.is_available()
    nccl = torch.cuda.nccl.version() if cuda and torch.distributed.is_nccl_available() else None
    cudnn = torch.backends.cudnn.version() if cuda else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
        "torchvision": version("torchvision"),
        "cuda": torch.version.cuda if cuda else None,
        "driver": _driver(),
        "cudnn": None if cudnn is None else str(cudnn),
        "nccl": ".".join(map(str, nccl)) if isinstance(nccl, tuple) else None,
        "device": torch.cuda.get_device_name() if cuda else _cpu(),
        "devices": torch.cuda.device_count() if cuda else 1,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_dispatch": " ".join(f"{name}={os.environ[name]}" for name in DISPATCH if name in os.environ) or None,
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }

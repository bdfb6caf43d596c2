"""What a run is computed on, for its card and its provenance."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def describe_hardware(device: str | torch.device = "cpu", processes: int = 1) -> dict[str, Any]:
    """Names and counts of what computes on ``device``: plain data, ready for JSON.

    Args:
        device: where the run trains.
        processes: of the run; on CUDA each has one GPU.

    Returns:
        ``cpu`` (name), ``cores`` (that this process may use), ``threads`` (of torch), ``memory_gib``,
        ``processes``, ``system``, ``python``, ``torch``; on CUDA also ``gpu`` (name), ``gpu_memory_gib``
        and ``cuda`` (version).
    """
    import psutil

    device = torch.device(device)
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processes": processes,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["cuda"] = torch.version.cuda
    return facts


def slow_precision(precision: str, device: torch.device) -> str | None:
    """Why training in this precision takes longer there than in fp32, or ``None``."""
    if precision != "bf16" or device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return (
        f"precision=bf16 on a processor without bfloat16 instructions ({_cpu_name()}) is emulated, some ten times "
        "slower than fp32; take precision=fp32 here"
    )


def peak_memory(device: torch.device) -> int:
    """Bytes: most that torch held on a CUDA device, elsewhere most that this process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":  # which has no resource module
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    if platform.system() == "Darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(
                command, capture_output=True, text=True, timeout=5, check=True
            ).stdout.strip()
    return platform.processor() or platform.machine() or "unknown"

"""Devices by name, refused in one line where they are not there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any

# Rounds that a thread of GNU's OpenMP, with which PyTorch computes on Linux, spins for others before it sleeps: by
# default 300,000, some milliseconds. Where a user has set one of WAITING, that counts.
SPIN_ROUNDS = "1000"
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def check_device_name(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: it is no name of a device.
    """
    if not DEVICE.fullmatch(name):
        raise ValueError(f"{name!r}: give auto, cpu, cuda, cuda:1 or mps")
    return name


def pick_device(name: str | None = "auto") -> str:
    """The device a command computes on.

    Args:
        name: ``auto`` (the GPU where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ValueError: no such device on this machine; says what to use.
    """
    import torch

    name = name or "auto"
    if not DEVICE.fullmatch(name):
        raise ValueError(f"device {name!r}: give auto, cpu, cuda, cuda:1 or mps")
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    require_device(name)
    return name


def require_device(device: Any) -> None:
    """Refuse a GPU that is not there, or what names no device; devices of other kinds are torch's to judge.

    Args:
        device: as torch takes it, or ``None``.

    Raises:
        ValueError: says what to use.
    """
    if device is None:
        return
    import torch

    name = f"cuda:{device}" if isinstance(device, int) else str(device)
    try:
        torch.device(name)
    except RuntimeError as error:  # torch's own text lists every kind of device that it was ever made for
        raise ValueError(f"device {name!r}: give cpu, cuda, cuda:1 or mps") from error
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps is not there: torch finds no Apple GPU; use auto or cpu")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ValueError(f"device {name} is not there: torch finds no CUDA GPU; use auto or cpu")
        if int(name.partition(":")[2] or 0) >= count:
            raise ValueError(
                f"device {name} is not there: torch finds {count} CUDA GPU(s), counted from cuda:0"
            )


def use_threads(threads: int | None) -> None:
    """Have torch compute with so many CPU threads; ``None`` leaves what it takes by itself."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def let_waiting_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have CPU threads of torch sleep soon when they wait for each other; for programs, before torch is imported.

    Where other work takes a core, threads that spin for the one that has none burn the other cores: NAF on two threads
    took two to three times as long as on one. A library must not decide that for its process, so only the commands do.
    """
    if "torch" not in sys.modules and not any(name in environment for name in WAITING):
        environment["GOMP_SPINCOUNT"] = SPIN_ROUNDS

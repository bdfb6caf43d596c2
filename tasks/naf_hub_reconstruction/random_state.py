"""The state of torch's random generators, so that a continued run draws what the first would have drawn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def get_random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's generators: of the CPU and, training there, of the CUDA device."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Undo all draws since :func:`get_random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)

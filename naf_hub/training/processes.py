"""One process or many: accelerate finds out which, and reduces and gathers between them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from accelerate import Accelerator


def start(device: str | torch.device | None = None) -> Accelerator:
    """The accelerator of this process; started by ``accelerate launch`` it is one of several.

    Precision, accumulation and logging are the recipe's business, not the launcher's, so that a run computes
    the same however it is started.

    Args:
        device: ``"cpu"`` keeps off any accelerator, ``"cuda:1"`` picks one; default is what accelerate finds.

    Raises:
        MissingExtraError: accelerate is not installed.
        ValueError: several processes cannot share the one device that was asked for, or there is no such.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtraError("training needs accelerate: pip install 'naf-hub[train]'") from error
    wanted = None if device is None else torch.device(device)
    if wanted is not None and wanted.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"no CUDA device here, but device is {str(wanted)!r}; leave --device out")
        if wanted.index is not None:
            torch.cuda.set_device(wanted.index)
    found = AcceleratorState._shared_state.get("device")
    if found is not None and wanted is not None and found.type != wanted.type:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process
    # Only where it is told that the CPU is meant does accelerate join several processes on CPUs.
    cpu = wanted.type == "cpu" if wanted else not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    )  # fmt: skip
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")
    if wanted is not None and wanted.type != accelerator.device.type:
        raise ValueError(f"device {str(wanted)!r} was asked for, but accelerate gives {accelerator.device}")
    if accelerator.num_processes > 1 and wanted is not None and wanted.index is not None:
        raise ValueError("of several processes each takes its own device; leave the number off --device")
    return accelerator


def part(accelerator: Accelerator) -> None:
    """Let go of the other processes, together: one that simply exits breaks what the others wait on."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()


def seed_step(seed: int, step: int) -> None:
    """Set every random generator to a state that ``seed`` and ``step`` alone decide.

    All processes and all passes of a step draw the same, as one large batch would; and a continued run
    needs no stored state.
    """
    from accelerate.utils import set_seed

    set_seed(random.Random(f"{seed}/step/{step}").getrandbits(32))

"""One process or many: accelerate finds out which, and reduces and gathers between them."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MissingExtraError
from .course import ALONE, Share

if TYPE_CHECKING:
    from accelerate import Accelerator


class Processes:
    """The processes of a run, as one of them sees them; without an accelerator this one is alone.

    Args:
        device: where this process computes.
        accelerator: joins it to the others.
    """

    def __init__(self, device: str | torch.device, accelerator: Accelerator | None = None) -> None:
        self.device = torch.device(device)
        self.accelerator = accelerator
        self.share = Share(accelerator.process_index, accelerator.num_processes) if accelerator else ALONE

    @property
    def count(self) -> int:
        """How many there are."""
        return self.share.processes

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.share.rank == 0

    def connect(self, model: nn.Module) -> nn.Module:
        """The model, wrapped so that backward passes share gradients where there are several processes."""
        return self.accelerator.prepare_model(model) if self.accelerator else model.to(self.device)

    def hold_back(self, net: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """A context in which backward passes do not share gradients yet."""
        return self.accelerator.no_sync(net) if self.accelerator else contextlib.nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over all processes."""
        return cast("Tensor", self.accelerator.reduce(values, "mean")) if self.accelerator else values

    def gather(self, entries: list[Any]) -> list[Any]:
        """The entries of all processes."""
        if self.count == 1:
            return entries
        from accelerate.utils import gather_object

        return gather_object(entries)

    def wait(self) -> None:
        """Go on when all have come this far."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def separate(self) -> None:
        """Let go of the others, together: one that simply exits breaks what the others wait on."""
        if self.count > 1:
            self.wait()
            torch.distributed.destroy_process_group()


def start(device: str | torch.device | None = None) -> Processes:
    """The processes of this run; started by ``accelerate launch`` this one is one of several.

    Precision, accumulation and logging are the settings' business, not the launcher's, so that a run computes
    the same however it is started. Without accelerate there can be one process alone.

    Args:
        device: ``"cpu"`` keeps off any accelerator, ``"cuda:1"`` picks one; default is what accelerate finds.

    Raises:
        MissingExtraError: several processes were started, but accelerate is not installed.
        ValueError: several processes cannot share the one device that was asked for, or there is no such.
    """
    wanted = None if device is None else torch.device(device)
    if wanted is not None and wanted.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"no CUDA device here, but device is {str(wanted)!r}; leave --device out")
        if wanted.index is not None:
            torch.cuda.set_device(wanted.index)
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            message = "training in several processes needs accelerate: pip install 'naf-hub[train]'"
            raise MissingExtraError(message) from error
        return Processes(wanted or _best_device())
    found = AcceleratorState._shared_state.get("device")
    if found is not None and wanted is not None and found.type != wanted.type:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process
    # Only where it is told that the CPU is meant does accelerate join several processes on CPUs.
    cpu = (wanted or _best_device()).type == "cpu"
    accelerator = Accelerator(cpu=cpu, mixed_precision="no")
    if wanted is not None and wanted.type != accelerator.device.type:
        raise ValueError(f"device {str(wanted)!r} was asked for, but accelerate gives {accelerator.device}")
    if accelerator.num_processes > 1 and wanted is not None and wanted.index is not None:
        raise ValueError("of several processes each takes its own device; leave the number off --device")
    return Processes(accelerator.device, accelerator)


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def seed_step(seed: int, step: int) -> None:
    """Set every random generator to a state that ``seed`` and ``step`` alone decide.

    All processes and all passes of a step draw the same, as one large batch would; and a continued run
    needs no stored state.
    """
    drawn = random.Random(f"{seed}/step/{step}").getrandbits(32)
    random.seed(drawn)
    np.random.seed(drawn)  # noqa: NPY002  (plugins may draw from the global generator)
    torch.manual_seed(drawn)  # of every device

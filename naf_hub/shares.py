"""Which share of the photos is this process's: the one it is told, or the one its launcher gives it."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")
# A process that has nothing left to do waits so long for the others.
PATIENCE = datetime.timedelta(days=30)


@dataclasses.dataclass(frozen=True)
class Share:
    """One of several equal shares.

    Attributes:
        number: counted from 1.
        of: how many there are.
        launched: whether a launcher started a process for each share.
    """

    number: int = 1
    of: int = 1
    launched: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"shard {self} is none: give i/n, counted from 1/{max(1, self.of)}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that ``i/n`` means.

        Raises:
            ValueError: it means none.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if match is None:
            raise ValueError(f"shard {text!r} is none: give i/n, such as 1/4, counted from 1")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of_process(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """The share of this process as ``accelerate launch`` and ``torchrun`` say it: ``RANK`` of ``WORLD_SIZE``.

        Raises:
            ValueError: they say no numbers that belong together.
        """
        rank, size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not (rank.isdigit() and size.isdigit() and int(rank) < int(size)):
            raise ValueError(f"RANK={rank!r} is no process of WORLD_SIZE={size!r}; give --shard i/n")
        return cls(int(rank) + 1, int(size), int(size) > 1)

    def pick(self, entries: Mapping[T, T]) -> dict[T, T]:
        """Every ``of``-th entry, beginning with that of this share; together the shares have each once."""
        chosen = list(entries.items())[self.number - 1 :: self.of]
        return dict(chosen)

    def device(self, device: str) -> str:
        """``device``; of several GPUs of a machine, where none is named by its number, that of this process."""
        if device != "cuda" or not self.launched:
            return device
        import torch

        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"

    def wait(self) -> None:
        """Go on when the processes of a launcher have all come this far.

        A launcher ends every process when one ends with an error; so none may until all are done.
        """
        if not self.launched or "MASTER_ADDR" not in os.environ:
            return
        import torch.distributed as processes

        processes.init_process_group("gloo", timeout=PATIENCE)
        processes.barrier()
        processes.destroy_process_group()

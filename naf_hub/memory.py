"""Memory: how much is free, how much a photo needs, and what the allocators' errors mean."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import NotEnoughMemoryError
from .parts.budget import parse_bytes

if TYPE_CHECKING:
    from .pipeline import FeaturePipeline

MEMORY_SWITCH = "NAF_HUB_MEMORY"
# Numbers a pixel of float32 beside the features: the image, the backbone's pass, what a filter keeps.
WORKING = 96
# The upsampled features, and once more of them while they are written.
COPIES = 2
# Maps of a learned upsampler that are alive together: the guidance, of two branches, and the input of one of these.
GUIDANCE_MAPS = 3
# What torch, NumPy and the systems say when memory ends; torch's are RuntimeErrors.
SHORTAGE = re.compile(
    r"DefaultCPUAllocator|out of memory|can(?:'t|not) allocate memory|Unable to allocate|bad_alloc"
    r"|Invalid buffer size|ALLOC_FAILED|Storage size calculation overflowed",
    re.IGNORECASE,
)
ASKED = re.compile(
    r"(?:tried to allocate|Unable to allocate|Invalid buffer size:) ([\d.]+) (bytes|[KMGTPE]?i?B)", re.I
)

# What of glibc's malloc is set, by the numbers of its <malloc.h>, and how it is set from outside.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
TUNED = re.compile(r"MALLOC_(ARENA|MMAP|TRIM|TOP)|glibc\.malloc")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Have the process keep memory that tensors free, for the next ones; for programs on Linux with glibc.

    Otherwise each map of some MB goes back to the system as it is freed, and the next one is handed out anew, page
    after page of zeros: that took a third of the processor seconds of a probe with NAF. The price is that the process
    stays as large as it ever was, and that aligned blocks leave holes of their size, so that it grows by up to a half.
    A library must not decide that for its process, so only commands do that repeat one thing often.

    Returns:
        Whether it does: not elsewhere, and not where the user has tuned malloc in the environment.
    """
    if platform.libc_ver()[0] != "glibc" or any(TUNED.search(f"{k}={v}") for k, v in environment.items()):
        return False
    set_option = ctypes.CDLL(None).mallopt
    # Blocks beyond still go back at once. Releases of glibc before 2.33 or so take no more than 32 MiB.
    kept = any(set_option(MMAP_THRESHOLD, limit) for limit in (1 << 29, 1 << 25))
    return bool(kept and set_option(TRIM_THRESHOLD, (1 << 31) - 1))


def shown(amount: float) -> str:
    """``"8.1 GiB"``."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "bytes" else f"{amount:.0f} bytes"
        amount /= 1024
    return f"{amount:.1f} PiB"


def free_memory(device: str = "cpu") -> int:
    """Bytes that a computation on ``device`` may still take; what ``NAF_HUB_MEMORY`` says (``"8GiB"``) if it is set.

    Raises:
        ValueError: that variable is no amount.
    """
    text = os.environ.get(MEMORY_SWITCH, "")
    if text:
        try:
            return parse_bytes(text)
        except ValueError as error:
            raise ValueError(f"{MEMORY_SWITCH}: {error}") from error
    if device.startswith("cuda"):
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    import psutil

    free = psutil.virtual_memory().available
    limited = _left_to_container(Path("/sys/fs/cgroup"))
    return free if limited is None else min(free, limited)


def _left_to_container(folder: Path) -> int | None:
    """What a control group of Linux still allows, its file caches counted as free; ``None`` without a limit."""
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
        return int(limit) - int(used) + int(cached[1] if cached else 0)
    except (OSError, ValueError):  # no such group, or "max"
        return None


def needed_memory(model: FeaturePipeline, size: tuple[int, int]) -> int:
    """Bytes that the features of one image of ``size`` (H, W) will take at the most, within a factor of about two.

    4 bytes x H x W x (2 C + 96 + 3 G): C channels upsampled and written, 96 for the image, the backbone and the
    filter, G output channels of the widest convolution of a learned upsampler, which works at every pixel.
    """
    channels = int(getattr(model.backbone, "embed_dim", 0))
    guidance = max(
        (weight.shape[0] for weight in model.upsampler.parameters() if weight.ndim == 4), default=0
    )
    return 4 * size[0] * size[1] * (COPIES * channels + WORKING + GUIDANCE_MAPS * guidance)


def memory_of_strips(size: tuple[int, int]) -> int:
    """As :func:`needed_memory`, but without the upsampled features: for a backbone alone, or features by strips."""
    return 4 * size[0] * size[1] * WORKING


def require_memory(needed: int, what: str, advice: str, device: str = "cpu") -> None:
    """Require that ``needed`` bytes are free.

    Args:
        what: that will not fit, for the message.
        advice: what to do.

    Raises:
        NotEnoughMemoryError: they are not.
    """
    free = free_memory(device)
    if needed > free:
        raise NotEnoughMemoryError(
            f"{what} needs about {shown(needed)} of memory and {shown(free)} are free; {advice}, or say how much "
            f"there is by {MEMORY_SWITCH}, e.g. {MEMORY_SWITCH}={max(1, -(-needed // 2**30))}GiB"
        )


def shortage(error: BaseException) -> str | None:
    """What to tell of an allocator's error in one line; ``None`` for any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, NotEnoughMemoryError):
        return text
    if not isinstance(error, MemoryError) and not (
        isinstance(error, (RuntimeError, OSError)) and SHORTAGE.search(text)
    ):
        return None
    match = ASKED.search(text)
    units = {"b": 1, "bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
    asked = (
        f": {shown(float(match[1]) * units.get(match[2].lower(), 1))} more were asked for" if match else ""
    )
    where = " of the GPU" if re.search("CUDA|MPS|GPU", text) else ""
    return f"not enough memory{where}{asked}; use smaller pictures, sizes or batches"

"""How a budget of memory is shared between guidance maps and the attention, and what maps take."""

from __future__ import annotations

from torch import Tensor

from naf_hub.parts.budget import working_memory

from .encoder import GuidanceEncoder

# What maps may take where no budget is given. Rows made anew cost three to four times the encoder, so that much goes
# before: on CPUs guidance of 2048x2048 pixels (4 GiB) and that of a 4K photo at a quarter of its sides are held.
_AFFORDABLE = {"cpu": 6 * 2**30}
_AFFORDABLE_ELSEWHERE = 16 * 2**30
# Where even the guidance goes by rows and no budget is given: some twenty rows of an image 4096 pixels wide.
_ROWS = 2**29


def maps_memory(memory: int | None, device: str) -> int:
    """Bytes that guidance maps may take: of a budget what :func:`attention_memory` leaves."""
    if memory is None:
        return _AFFORDABLE.get(device, _AFFORDABLE_ELSEWHERE)
    return memory - attention_memory(memory, device)


def attention_memory(memory: int | None, device: str) -> int:
    """Bytes that the attention may take beside whole guidance maps."""
    return working_memory(None, device) if memory is None else max(1, memory // 4)


def rows_memory(memory: int | None, device: str) -> int:
    """Bytes to keep to where guidance is made by rows: fewer mean lower strips, each of which encodes the rows around
    it anew."""
    return max(_ROWS, working_memory(None, device)) if memory is None else memory


def guidance_bytes(encoder: GuidanceEncoder, image: Tensor, output_size: tuple[int, int]) -> int:
    """Bytes of the guidance of all samples of ``image`` (B, 3, H_img, W_img), as :mod:`.strips` makes it."""
    numbers = len(image) * output_size[0] * output_size[1] * encoder.width * len(encoder.branches)
    return numbers * image.element_size()


def branch_bytes(encoder: GuidanceEncoder, image: Tensor) -> int:
    """Bytes of the map of one branch for one sample of ``image``."""
    return image.shape[-2] * image.shape[-1] * encoder.width * image.element_size()

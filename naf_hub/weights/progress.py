"""A bar for work that takes long because of the size of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

LARGE = 1 << 30


@contextlib.contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], object]]:
    """Yield what is to be called with the bytes done; draws nothing for less than a GiB.

    The bar is huggingface_hub's, which ``HF_HUB_DISABLE_PROGRESS_BARS=1`` silences.
    """
    if total < LARGE:
        yield lambda _: None
        return
    from huggingface_hub.utils import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc=title, leave=False) as bar:
        yield bar.update

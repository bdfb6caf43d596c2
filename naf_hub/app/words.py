"""Words on the page: where the task that looks for words is installed, and what it needs is on this machine."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..interfaces import Backbone, Upsampler
from ..loading import load_task
from ..registry import list_tasks

TASK = "open_vocabulary"


class WordMaps(Protocol):
    """Shows where in a picture something is that is named in words."""

    def find(self, image: Tensor, words: str, backbone: Backbone, upsampler: Upsampler) -> Tensor:
        """(h, w) scores of a picture (3, H, W) in [0, 1], higher where it looks more like the words.

        Raises:
            ValueError: no words.
        """
        ...


@runtime_checkable
class FindsWords(Protocol):
    """A task that can give :class:`WordMaps`."""

    def word_maps(self, clip: str | None, device: Any) -> WordMaps | None:
        """Those of a CLIP; by default of the task's own, or ``None`` where that would have to be fetched.

        Raises:
            MissingExtraError, WeightsError: the CLIP that is named cannot be had.
        """
        ...


def find_word_maps(clip: str | None, device: Any) -> WordMaps | None:
    """What finds words on this machine; ``None`` where nothing does. Errors as of :meth:`FindsWords.word_maps`."""
    task = load_task(TASK) if TASK in list_tasks() else None
    return task.word_maps(clip, device) if isinstance(task, FindsWords) else None

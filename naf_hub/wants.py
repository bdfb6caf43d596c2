"""What an upsampler asks of a backbone, without importing torch."""

from __future__ import annotations

from typing import NamedTuple

KINDS = ("token", "query", "key", "value", "class")


class Want(NamedTuple):
    """One map of a backbone. ``Want()`` is what ``backbone(image)`` gives, whatever options it was made with.

    Attributes:
        layer: block (of a convolutional backbone: stage), counted as in Python; -1 is the last one the backbone has.
        kind: ``"token"`` (what the block puts out), ``"query"``, ``"key"`` or ``"value"`` (what its attention
            works on, heads side by side, before any rotation by position), or ``"class"`` (the class token).
        norm: behind the backbone's final norm; of no effect on queries, keys and values.
    """

    layer: int = -1
    kind: str = "token"
    norm: bool = True

    @property
    def name(self) -> str:
        """A short name, unique among wants: ``token[-1]``, ``key[3]``, ``token[2] without norm``."""
        unnormed = "" if self.norm or self.kind in ("query", "key", "value") else " without norm"
        return f"{self.kind}[{self.layer}]{unnormed}"

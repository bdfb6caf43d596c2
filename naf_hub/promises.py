"""What an upsampler promises, declared in one place; the conformance suite checks each promise that is made."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Promises:
    """Promises of an upsampler. Tasks rely on them, so a false one gives wrong results in silence.

    Attributes:
        linear_groups: number of contiguous channel groups (cut as ``torch.tensor_split``) such that each
            output channel is a sum of the features of that same channel weighted by factors that
            depend on the image, the sizes and the group only: 1 for interpolation and joint filters,
            the attention heads for NAF. Linear maps of the features (class scores, projections) then
            commute with upsampling, and tasks upsample a few scores instead of all channels.
            ``None``: not linear, or not known to be.
        constant: constant features give the same constant (weights that sum to one).
        range: every output value lies within the range of its channel's features.
        batch_independent: a batch of two is two batches of one.
        export: ``torch.export`` captures it, at the sizes it is given.
        gradients: gradients reach the features, and the parameters of a trainable method.
        translation: where an output cell is a whole number of pixels, image and features moved by one cell give the
            output moved by one cell, eleven cells and more from the border. Not so for a method that knows where in
            the image it is, takes statistics of the whole image that the border enters (NAF's normalisation), or
            works on a grid that the cells do not divide.
        open_sizes: one graph of ``torch.export`` serves every batch, image and feature size, as an ONNX file must. Not
            so for a method that chooses steps or tables by the sizes.
        closed_sizes: why ``open_sizes`` is not promised, and what to do if anything can be done: told to who exports.
    """

    linear_groups: int | None = None
    constant: bool = True
    range: bool = False
    batch_independent: bool = True
    export: bool = True
    gradients: bool = True
    translation: bool = False
    open_sizes: bool = False
    closed_sizes: str | None = None

    def __post_init__(self) -> None:
        if self.linear_groups is not None and self.linear_groups < 1:
            raise ValueError(f"linear_groups must be at least 1, or None, got {self.linear_groups}")

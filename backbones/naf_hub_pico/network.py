"""Pico: a 1.2 M parameter convolutional backbone of stride 16, made for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from naf_hub import Backbone, MapError, Want
from naf_hub.parts.transformer_maps import layer_index


def downsample(inputs: int, outputs: int, kernel_size: int) -> nn.Sequential:
    """Halve the grid: strided convolution, batch norm, ReLU.

    The kernel is even: each output then sits exactly between the two inputs it replaces, so that a feature
    describes the centre of its cell. A padded 3x3 kernel of stride 2 would shift every level by half a
    pixel, half a cell after four of them, and an upsampler would have to undo it.
    """
    padding = (kernel_size - 2) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride=2, padding=padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Block(nn.Module):
    """Residual block: depthwise convolution for context, then a pointwise expansion and projection."""

    def __init__(self, dim: int, kernel_size: int, expansion: int) -> None:
        super().__init__()
        self.context = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.expand = nn.Conv2d(dim, dim * expansion, 1)
        self.activation = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(dim * expansion, dim, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.expand(self.norm(self.context(x))))
        return x + self.project_norm(self.project(y))


class Pico(Backbone):
    """naf-hub's own small backbone: (B, 3, H, W) in [0, 1] to (B, embed_dim, H/16, W/16).

    Any H and W; sides that are no multiple of 16 are resized as :class:`naf_hub.Backbone` says. The shipped
    weights were distilled from block 9 of a ViT-S/14 (:mod:`naf_hub_pico.distill`).

    Args:
        embed_dim: channels C of the features.
        widths: channels at strides 2, 4, 8 and 16.
        depths: residual blocks at strides 8 (kernel 5) and 16 (kernel 7).
        expansion: width of the blocks' inner layer, relative to their own.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        widths: Sequence[int] = (24, 48, 80, 160),
        depths: Sequence[int] = (2, 6),
        expansion: int = 3,
    ) -> None:
        super().__init__(embed_dim=embed_dim, patch_size=16)
        if len(widths) != 4 or len(depths) != 2:
            raise ValueError(f"pico has four widths and two depths, got {tuple(widths)} and {tuple(depths)}")
        w2, w4, w8, w16 = widths
        self.stem = nn.Sequential(downsample(3, w2, 4), downsample(w2, w4, 4), downsample(w4, w8, 4))
        self.fine = nn.Sequential(*(Block(w8, 5, expansion) for _ in range(depths[0])))
        self.reduce = downsample(w8, w16, 2)
        self.coarse = nn.Sequential(*(Block(w16, 7, expansion) for _ in range(depths[1])))
        self.out = nn.Conv2d(w16, embed_dim, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(embed_dim)

    def extract(self, image: Tensor) -> Tensor:
        """(B, embed_dim, H/16, W/16) of a normalised (B, 3, H, W) image, H and W multiples of 16."""
        return self._finish(self.fine(self.stem(image)))

    def _finish(self, fine: Tensor) -> Tensor:
        return self.out_norm(self.out(self.coarse(self.reduce(fine))))

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """See :meth:`naf_hub.Backbone.extract_maps`: tokens of stage 0 (stride 8) and 1 (stride 16, the last).

        Asking for the norm or not makes no difference.
        """
        layers = [layer_index(type(self).__name__, want, 2) for want in wants]
        for want in wants:
            if want.kind != "token":
                raise MapError(
                    f"{type(self).__name__} has no {want.name}: it has tokens of layers 0 and 1 only"
                )
        fine = self.fine(self.stem(image))
        last = self._finish(fine) if 1 in layers else fine
        return tuple(last if layer else fine for layer in layers)

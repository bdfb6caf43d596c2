"""JBU as the NAF paper evaluates it: a bilateral filter with a learned range kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Normalize, Promises, Upsampler
from naf_hub.parts.precision import without_autocast, working_dtype

from .borders import take
from .interpolation import BilinearBlocks, resize
from .window_average import window_average

DROPOUT = 0.1


class RangeKernel(nn.Module):
    """Parameters of the learned kernel, under the names of the published state.

    ``fixup_proj`` belongs to that state but JBU does not use it: it is frozen.
    """

    def __init__(self, key_width: int, radius: int) -> None:
        super().__init__()
        taps = (2 * radius + 1) ** 2
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        self.range_proj = _projection(3, key_width, key_width)
        self.fixup_proj = _projection(taps + 3, taps, taps).requires_grad_(False)

    def keys(self, guidance: Tensor, keep: Tensor) -> Tensor:
        """(B, 3, n, m) guidance -> (B, K, n, m) keys; ``keep`` (B, K, 1, 1) is the channel dropout."""
        first, second = self.range_proj[0], self.range_proj[3]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        hidden = F.gelu(_conv(first, guidance)) * keep
        return _conv(second, hidden)

    def spatial(self, radius: int, dtype: torch.dtype) -> Tensor:
        """(2r + 1, 2r + 1) spatial factors; the window spans [-1, 1] whatever its radius."""
        offset = torch.linspace(-1, 1, 2 * radius + 1, dtype=dtype, device=self.sigma_spatial.device)
        square = offset[:, None].square() + offset.square()
        return torch.exp(-square / (2 * self.sigma_spatial.to(dtype).square()))


class JBU(Upsampler):
    """Learned-range joint bilateral filter at output resolution (FeatUp's kernel, NAF Tab. 1 and 3).

    The image (ImageNet-normalised inside) and the features are resized bilinearly to the output;
    every output pixel then averages the features over a window of output pixels with

        ``w = r s / sum r s``,  ``r = softmax(T <e_q, e_p>)``,  ``s = exp(-(u^2 + v^2) / (2 sigma^2))``

    where ``e`` is a two-layer 1x1 convolution of the image and the window spans u, v in [-1, 1]. Borders are
    reflected; an axis of at most ``radius`` pixels repeats its edge instead. One set of weights
    serves every backbone. Untrained it is a soft blur.

    The state dict has the keys of the published module: 34,305 parameters at the defaults, of which the
    4,418 outside ``fixup_proj`` act and are trainable.

    Args:
        dim: four times the width of the keys ``e``.
        radius: of the window, in output pixels.

    Raises:
        ValueError: ``dim`` no positive multiple of 4, or ``radius`` below 1.
    """

    promises = Promises(linear_groups=1, range=True, translation=True, open_sizes=True)

    def __init__(self, dim: int = 256, radius: int = 5) -> None:
        super().__init__()
        if dim < 4 or dim % 4:
            raise ValueError(f"dim must be a positive multiple of 4, got {dim}")
        if radius < 1:
            raise ValueError(f"radius must be at least 1 pixel, got {radius}")
        self.dim = dim
        self.radius = radius
        self.normalize = Normalize()
        self.bilateral_filter = RangeKernel(dim // 4, radius)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, radius={self.radius}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        guidance = self.normalize(image.to(working_dtype(features.dtype)))
        return self.filter(guidance, features, output_size)

    def filter(self, guidance: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised."""
        return _filter(guidance, features, output_size, self)


@without_autocast
def _filter(guidance: Tensor, features: Tensor, size: tuple[int, int], model: JBU) -> Tensor:
    dtype = working_dtype(features.dtype)
    kernel, width = model.bilateral_filter, model.dim // 4
    guidance = resize(guidance.to(dtype), size)
    upsampled = BilinearBlocks(features.to(dtype), size)
    # Drawn once for the whole map: blocks compute their own keys, and must drop the same channels.
    keep = F.dropout2d(guidance.new_ones(guidance.shape[0], width, 1, 1), DROPOUT, model.training)
    temperature = kernel.range_temp.to(dtype).exp().clamp(1e-4, 1e4)

    def blocks(rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        return kernel.keys(take(guidance, rows, cols), keep), upsampled(rows, cols)

    return window_average(
        blocks,
        lambda queries, keys: temperature * (queries @ keys),
        kernel.spatial(model.radius, dtype),
        (features.shape[0], features.shape[1], *size),
        width,
        features,
        (guidance, *kernel.parameters()),
    )


def _projection(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1), nn.GELU(), nn.Dropout2d(DROPOUT), nn.Conv2d(hidden, outputs, 1)
    )


def _conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    assert layer.bias is not None
    return F.conv2d(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))

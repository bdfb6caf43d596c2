"""What LoftUp knows of a pixel: its colour and place as sines of many frequencies (arXiv 2504.14032, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from naf_hub.parts.pieces import Range
from naf_hub.parts.precision import working_dtype
from naf_hub.parts.sizes import line

# Logarithms of the lowest and the highest frequency, in radians per half a map and per whole range of a colour.
LOWEST, HIGHEST = -2.0, 10.0
FLATTEST = 1e-4


class FourierFeatures(nn.Module):
    """Rows of a map of sines and cosines of row, column and colours, each at ``frequencies`` frequencies.

    Rows and columns go from -1 at the first to 1 at the last. With the D values z of a pixel and frequencies f, channel
    ``m D + d`` is ``sin(z_d f_m + b)``, then come the cosines in the same order, with offsets b that are learned, then
    the colours. The highest frequency, 22026, amplifies rounding ten thousandfold: computed in float32 at least.

    Args:
        frequencies: how many.
        colours: whether there are any; without, places alone.
    """

    def __init__(self, frequencies: int, colours: bool) -> None:
        super().__init__()
        self.colours = colours
        values = 5 if colours else 2
        self.biases = nn.Parameter(torch.randn(2, values, frequencies))
        self.rates = torch.linspace(LOWEST, HIGHEST, frequencies, device="cpu").exp().tolist()

    @property
    def channels(self) -> int:
        """How many the map has."""
        return self.biases.numel() + (3 if self.colours else 0)

    def forward(self, image: Tensor, rows: Range) -> Tensor:
        """Some rows (B, n, W, channels) of the map, in the dtype of ``image`` or float32 if that is narrower.

        Args:
            image: (B, 3, H, W) colours within -0.5 and 0.5; only its size matters without colours.
            rows: first row and the one behind the last.
        """
        height, width = image.shape[-2:]
        dtype, device = working_dtype(image.dtype), image.device
        seen = image[:, :, rows[0] : rows[1]].to(dtype).permute(0, 2, 3, 1)
        y, x = line(-1, 1, height, seen)[rows[0] : rows[1]], line(-1, 1, width, seen)
        values = [at.expand(seen.shape[:3]) for at in (y[:, None], x)]
        if self.colours:
            values += seen.unbind(-1)
        _, count, frequencies = self.biases.shape
        rates = torch.linspace(LOWEST, HIGHEST, frequencies, dtype=dtype, device=device).exp()
        if torch.compiler.is_compiling() and dtype == torch.float32:
            # As numbers: the last bit of another runtime's exp would be amplified, too.
            rates = torch.tensor(self.rates, device=device)
        phases = torch.stack(values, dim=-1)[..., None, :] * rates[:, None]
        # Reshaped, not transposed: so were the weights trained.
        sine, cosine = self.biases.to(dtype).view(2, frequencies, count)
        maps = [(phases + sine).sin().flatten(-2), (phases + cosine).cos().flatten(-2)]
        return torch.cat([*maps, seen] if self.colours else maps, dim=-1)


def stretch_colours(image: Tensor, per_image: bool) -> Tensor:
    """Each colour of (B, 3, H, W) brought to the range from -0.5 to 0.5, over the whole batch or within each image."""
    over = (2, 3) if per_image else (0, 2, 3)
    low, high = image.amin(over, keepdim=True), image.amax(over, keepdim=True)
    return (image - low) / (high - low).clamp_min(FLATTEST) - 0.5

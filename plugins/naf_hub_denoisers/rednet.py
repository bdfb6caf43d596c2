"""RED-Net (Mao et al., arXiv 1606.08921), as the NAF repository has it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .noise_predictor import MEMORY, NoisePredictor


class REDNet(NoisePredictor):
    """Convolutions at half resolution, then as many transposed ones, with skips from every second to its mirror image.

    Args:
        width: channels.
        depth: convolutions, and transposed convolutions; at least 2.
        memory: what inference may take beside image and result, in bytes or as text such as ``"512MiB"``.
    """

    def __init__(self, width: int = 64, depth: int = 15, memory: int | str = MEMORY) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        # Two rows of the image a row at half resolution, in each of the 2 * depth layers.
        super().__init__(width, reach=4 * depth, multiple=2, memory=memory)
        self.conv_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width if i else 3, width, 3, stride=1 if i else 2, padding=1), nn.ReLU(inplace=True)
            )
            for i in range(depth)
        )
        self.deconv_layers = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(width, width, 3, padding=1), nn.ReLU(inplace=True))
            for _ in range(depth - 1)
        )
        self.deconv_layers.append(nn.ConvTranspose2d(width, 3, 3, stride=2, padding=1, output_padding=1))

    def noise(self, image: Tensor) -> Tensor:
        depth, kept, x = len(self.conv_layers), [], image
        for i, layer in enumerate(self.conv_layers, start=1):
            x = layer(x)
            if i % 2 == 0 and len(kept) < (depth + 1) // 2 - 1:
                kept.append(x)
        for i, layer in enumerate(self.deconv_layers, start=1):
            x = layer(x)
            if (i + depth) % 2 == 0 and kept:
                x = F.relu(x + kept.pop())
        return x

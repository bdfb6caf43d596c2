"""IRCNN (Zhang et al., arXiv 1704.03264)."""

from __future__ import annotations

from torch import Tensor, nn

from .noise_predictor import MEMORY, NoisePredictor

DILATIONS = (1, 2, 3, 4, 3, 2, 1)


class IRCNN(NoisePredictor):
    """Seven 3x3 convolutions of growing and shrinking dilation with ReLU between, trained to predict the noise.

    Args:
        width: channels.
        memory: what inference may take beside image and result, in bytes or as text such as ``"512MiB"``.
    """

    def __init__(self, width: int = 64, memory: int | str = MEMORY) -> None:
        super().__init__(width, reach=sum(DILATIONS), multiple=1, memory=memory)
        sides = [3, *[width] * (len(DILATIONS) - 1), 3]
        layers: list[nn.Module] = []
        for inputs, outputs, dilation in zip(sides, sides[1:], DILATIONS, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation),
                nn.ReLU(inplace=True),
            ]
        self.model = nn.Sequential(*layers[:-1])

    def noise(self, image: Tensor) -> Tensor:
        return self.model(image)

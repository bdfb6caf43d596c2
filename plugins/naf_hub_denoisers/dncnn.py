"""DnCNN (Zhang et al., arXiv 1608.03981), as DPIR's reference implementation has it."""

from __future__ import annotations

from torch import Tensor, nn

from .noise_predictor import MEMORY, NoisePredictor


class DnCNN(NoisePredictor):
    """A chain of 3x3 convolutions with batch norm and ReLU, trained to predict the noise.

    The NAF paper compares with a network of this size and does not publish it; depth and width follow from its
    parameter count (559,363), batch norm is the reference's default. State dicts have the reference's keys.

    Args:
        width: channels.
        depth: convolutions, at least 2.
        memory: what inference may take beside image and result, in bytes or as text such as ``"512MiB"``.
    """

    def __init__(self, width: int = 64, depth: int = 17, memory: int | str = MEMORY) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        super().__init__(width, reach=depth, multiple=1, memory=memory)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            # In torch's convention this momentum keeps a tenth of the old statistics.
            norm = nn.BatchNorm2d(width, eps=1e-4, momentum=0.9)
            layers += [nn.Conv2d(width, width, 3, padding=1), norm, nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    def noise(self, image: Tensor) -> Tensor:
        return self.model(image)

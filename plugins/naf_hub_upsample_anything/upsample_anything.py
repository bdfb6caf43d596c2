"""Upsample Anything (Seo, Hamilton, Kim, arXiv 2511.16301): a kernel fitted to the image, then applied to features."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from naf_hub import Promises, Upsampler
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.parts.precision import autocast_off, working_dtype
from naf_hub.terminal import progress_bar

from .fit import fit_splats
from .kept_fits import KeptFits
from .splats import SplatKernel, Splats


class UpsampleAnything(Upsampler):
    """Fit a Gaussian of place and colour to every cell, so that they rebuild the image from itself in the cells' size;
    then average features by them.

    Nothing is trained beforehand: each image is fitted anew (see the README for the time) unless ``cache`` holds its
    fit. The fit draws nothing at random: the same image and sizes give the same result, bit for bit on a CPU. An image
    of another size than the output is resized to it first (bilinear, antialiased). Where the sides are no multiples of
    the grid's, which the published code does not define, a cell is a fraction of a pixel wider.

    No gradient reaches the image; those of the features are those of a fixed kernel.

    Args:
        steps: of the optimiser.
        learning_rate: of Adam, at the first step. The paper states 1e-3, which would leave the kernel as it starts;
            the default is what the authors' code has.
        radius: the most cells that a pixel sees to either side.
        memory: working memory to keep to, in bytes or as text such as ``"512MiB"``; by default 64 MiB on CPUs and
            2 GiB elsewhere. Inputs, output and the image in the output's size come on top. Results do not depend on
            it beyond rounding, which a fit can enlarge.
        progress: show a bar; by default on a terminal, and in a log a line a minute.
        cache: folder to keep fits in, some kilobytes each: the same image and grid, of whichever backbone, are then
            fitted once, and an interrupted evaluation goes on where it was. By default nothing is kept.

    Raises:
        ValueError: a number below 1, a learning rate that is not positive, or a cache without a name.
    """

    promises = Promises(
        linear_groups=1, range=True, export=False, closed_sizes="it fits Gaussians to each image"
    )

    def __init__(
        self,
        steps: int = 51,
        learning_rate: float = 0.1,
        radius: int = 8,
        memory: int | str | None = None,
        progress: bool | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("steps", steps), ("radius", radius)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        self.steps, self.learning_rate, self.radius, self.progress = steps, learning_rate, radius, progress
        self.memory = None if memory is None else parse_bytes(memory)
        self.kept = None if cache is None else KeptFits(cache)

    def extra_repr(self) -> str:
        return f"steps={self.steps}, learning_rate={self.learning_rate}, radius={self.radius}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        outputs = []
        for guide, sample in zip(image, features, strict=True):
            resized = guide.detach().to(working_dtype(guide.dtype))
            if resized.shape[-2:] != output_size:
                resized = F.interpolate(resized[None], output_size, mode="bilinear", antialias=True)[0]
            splats = self.fit(resized, (sample.shape[-2], sample.shape[-1]))
            outputs.append(self.apply_splats(splats, resized, sample))
        return torch.stack(outputs)

    def fit(self, image: Tensor, grid: tuple[int, int]) -> Splats:
        """The Gaussians that :meth:`apply_splats` takes: they serve any features of that grid.

        Args:
            image: (3, H, W) in [0, 1], of the output's size.
            grid: (h, w) of the features.

        Raises:
            ValueError: the grid is larger than the image on an axis.
        """
        (height, width), (h, w) = image.shape[1:], grid
        if height < h or width < w:
            raise ValueError(
                f"upsample_anything only enlarges: features of {h}x{w} cannot become {height}x{width}; "
                "ask for a larger output, or shrink the result of a larger one"
            )
        if self.kept is None:
            return self._fitted(image, grid)
        settings = (self.steps, self.learning_rate, self.radius)
        return self.kept.fetch(image, grid, settings, lambda: self._fitted(image, grid))

    def _fitted(self, image: Tensor, grid: tuple[int, int]) -> Splats:
        title: dict[str, Any] = {"desc": "upsample_anything: fit", "unit": "step", "leave": False}
        steps = range(self.steps)
        by_default = self.progress is None
        bar = progress_bar(steps, **title) if by_default else tqdm(steps, disable=not self.progress, **title)
        # The caller may have turned gradients off in either way; of inference mode only a copy comes out.
        with torch.inference_mode(False), torch.enable_grad(), autocast_off(image.device):
            image = image.detach().clone()
            kernel = SplatKernel(image, grid, self.radius)
            shrunk = F.interpolate(image[None], grid, mode="bicubic")[0]
            return fit_splats(kernel, shrunk, bar, self.learning_rate, self._budget(image))[0]

    def apply_splats(self, splats: Splats, image: Tensor, features: Tensor) -> Tensor:
        """Features (C, h, w), averaged by fitted Gaussians: (C, H, W), the size of the image (3, H, W)."""
        kernel = SplatKernel(image, (features.shape[-2], features.shape[-1]), self.radius)
        return kernel(splats, features, self._budget(image))

    def _budget(self, image: Tensor) -> int:
        return working_memory(self.memory, image.device.type)

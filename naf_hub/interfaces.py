"""The interfaces plugins implement. Images are RGB floats in [0, 1], shape (B, 3, H, W), everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, check_image, check_output_size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """``(image - mean) / std`` per RGB channel, for images in [0, 1]; keeps the image's dtype.

    Holds no state: the constants never appear in a ``state_dict``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.constants = (tuple(mean), tuple(std))
        self.register_buffer("mean", torch.empty(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(1, 3, 1, 1), persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """Fill the buffers; called again for a module built on the meta device (timm's name for this)."""
        for buffer, values in zip((self.mean, self.std), self.constants, strict=True):
            buffer.copy_(torch.tensor(values, dtype=torch.float32, device="cpu").view(1, 3, 1, 1))

    def _apply(self, fn: Callable, recurse: bool = True) -> Normalize:
        # Follow devices and doubles, but not half precision: it would shift every pixel by up to 0.4 %.
        super()._apply(fn, recurse)
        if self.mean.dtype in (torch.float16, torch.bfloat16):
            self.mean, self.std = self.mean.float(), self.std.float()
            self.init_non_persistent_buffers()
        return self

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean.to(image.dtype)) / self.std.to(image.dtype)


class Backbone(nn.Module):
    """A frozen vision backbone: ``forward(image) -> (B, C, h, w)`` dense features.

    A subclass implements :meth:`extract`. The base class checks the image, resizes it where its sides
    are no multiples of the patch, and applies the backbone's own normalisation.

    Args:
        embed_dim: channels C of the features.
        patch_size: image pixels per feature cell.
        mean: of RGB values in [0, 1], per channel, subtracted first.
        std: what is then divided by.
    """

    def __init__(
        self,
        embed_dim: int,
        patch_size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.normalize = Normalize(mean, std)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Feature grid (h, w) for an image of ``height`` x ``width`` pixels."""
        return (max(1, round(height / self.patch_size)), max(1, round(width / self.patch_size)))

    def forward(self, image: Tensor) -> Tensor:
        """Dense features of ``image``.

        Args:
            image: (B, 3, H, W), RGB in [0, 1], any H and W. Where a side is no multiple of
                ``patch_size`` the image is resized (bilinear, antialiased) to the nearest multiple,
                with a warning that names the sizes.

        Returns:
            (B, embed_dim, h, w) with ``h, w = grid(H, W)``, in the dtype of ``image`` whatever the weights'.

        Raises:
            TypeError, ValueError: see :func:`naf_hub.checks.check_image`.
        """
        check_image(image)
        height, width = image.shape[-2:]
        h, w = self.grid(height, width)
        size = (h * self.patch_size, w * self.patch_size)
        if size != (height, width):
            if not torch.compiler.is_compiling():
                warnings.warn(
                    f"image resized from {height}x{width} to {size[0]}x{size[1]}: "
                    f"{type(self).__name__} needs multiples of {self.patch_size} pixels",
                    UserWarning,
                    stacklevel=3,
                )
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        # Weights in half precision are common for large models; what callers see stays theirs.
        dtype = next((p.dtype for p in self.parameters()), image.dtype)
        return self.extract(self.normalize(image).to(dtype)).to(image.dtype)

    def extract(self, image: Tensor) -> Tensor:
        """Features (B, embed_dim, h, w) of a checked, normalised image whose sides fit the patch."""
        raise NotImplementedError(f"{type(self).__name__} must implement extract(image)")


Shape = tuple[int, ...]
# What fills one key of a state dict: the name of a tensor in the file, and what is done to it, if anything.
Step = tuple[str, Callable[[Tensor], Tensor] | None]


class ForeignWeights(nn.Module):
    """A model whose published weights have other names or shapes than its own: it says which tensor goes where.

    A base class beside :class:`Backbone` or :class:`Upsampler`. From what a subclass states, naf-hub fills a model
    built without storage tensor by tensor from its file or shards (so that loading takes no more memory than the
    weights), and loads state dicts that are in memory.
    """

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """Which tensor of a file fills each key of ``self.state_dict()``.

        May change the parts of the model to suit the weights (another number of registers, say): where the weights
        turn out not to fit, they are put back. May be called on the meta device. Tensors that no step names are
        left out; a subclass raises where one of those is not known to be superfluous.

        Args:
            shapes: of the tensors in the file, by name.

        Returns:
            ``{own key: (name in the file, change)}``; ``change`` makes the model's tensor of the file's, ``None``
            takes it as it is. ``None`` instead of a mapping where that cannot be said without the values: then
            :meth:`convert_weights` is asked.

        Raises:
            WeightsError: they are not for this model; :func:`naf_hub.weights.fill.check_plan` words it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement plan_weights(shapes)")

    def convert_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict with the model's own keys and shapes, where :meth:`plan_weights` gave ``None``.

        Raises:
            WeightsError: these weights are not for this model.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement convert_weights(state)")

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict in any layout this class knows, all of it or nothing. Not to be overridden.

        Raises:
            WeightsError: names missing, unexpected and misshapen keys, or one with NaN.
        """
        from .weights.files import load_into

        load_into(self, state, "weights")


class Upsampler(nn.Module):
    """A feature upsampler: ``forward(image, features, output_size=None) -> (B, C, H, W)``.

    A subclass implements :meth:`upsample`; the base class checks the arguments. Normalisation of the
    image, where a method needs one, happens inside ``upsample``.

    Attributes:
        linear_groups: number of contiguous channel groups (cut as ``torch.tensor_split``) such that each
            output channel is a sum of the features of that same channel weighted by factors that
            depend on the image, the sizes and the group only: 1 for interpolation and joint filters,
            the attention heads for NAF. Linear maps of the features (class scores, projections) then
            commute with upsampling, which tasks use to upsample a few scores instead of all channels.
            ``None``: not linear, or not known to be. Set it in the constructor where it depends on options.
    """

    linear_groups: int | None = None

    def forward(
        self, image: Tensor, features: Tensor, output_size: int | tuple[int, int] | None = None
    ) -> Tensor:
        """Upsample ``features`` under the guidance of ``image``.

        Args:
            image: (B, 3, H_img, W_img), RGB in [0, 1].
            features: (B, C, h, w) of any backbone.
            output_size: an int (square) or (H, W); default the image's size.

        Returns:
            (B, C, H, W), dtype and device of ``features``. The memory format is the method's choice:
            use ``reshape`` or ``flatten`` rather than ``view``.

        Raises:
            TypeError, ValueError: see :mod:`naf_hub.checks`.
        """
        check_image(image)
        check_features(features, image)
        return self.upsample(image, features, check_output_size(output_size, image))

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """The method itself, on checked arguments; see :meth:`forward`."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement upsample(image, features, output_size)"
        )

    def bench_floor(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int]
    ) -> tuple[str, Callable[[], Any]] | None:
        """What ``naf-hub bench`` times in the same run to compare with: a label and a callable doing the
        arithmetic that this method cannot avoid (for example its bare convolutions), or ``None``."""
        return None


class Task:
    """What upsampled features are for. A subclass implements :meth:`train`, :meth:`evaluate`, or both."""

    name: ClassVar[str] = ""

    def train(self, **options: Any) -> dict[str, Any]:
        """Train and return a summary; raises ``NotImplementedError`` where the task cannot train."""
        raise NotImplementedError(f"task {self.name!r} does not train")

    def evaluate(self, **options: Any) -> dict[str, Any]:
        """Evaluate and return metrics; raises ``NotImplementedError`` where the task cannot evaluate."""
        raise NotImplementedError(f"task {self.name!r} does not evaluate")

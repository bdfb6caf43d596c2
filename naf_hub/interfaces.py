"""The interfaces plugins implement. Images are RGB floats in [0, 1], shape (B, 3, H, W), everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, check_image, check_output_size, warn_caller
from .errors import MapError
from .promises import Promises
from .records import Origin, Record, UpsamplerRecord
from .reports import Metric, Report
from .wants import Want

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What an upsampler gathers of a backbone: one map, or several by name.
Features: TypeAlias = "Tensor | Mapping[str, Tensor]"


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

    A subclass implements :meth:`extract`, and :meth:`extract_maps` if it has more than its last map to give. The
    base class checks the image, resizes it where its sides are no multiples of the patch, and applies the
    backbone's own normalisation.

    Args:
        embed_dim: channels C of the features.
        patch_size: image pixels per feature cell.
        mean: of RGB values in [0, 1], per channel, subtracted first.
        std: what is then divided by.

    Attributes:
        origin: record and weights, where it was loaded by name.
    """

    origin: Origin | None = None

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
        return self.maps(image)[0]

    def maps(self, image: Tensor, *wants: Want) -> tuple[Tensor, ...]:
        """The maps that are wanted of ``image``, in one pass of the network.

        Args:
            image: as for :meth:`forward`.
            wants: which maps; none means the one that :meth:`forward` gives.

        Returns:
            A (B, C, h, w) map for each want, in the dtype of ``image``; a class token is a map of one cell,
            (B, C, 1, 1).

        Raises:
            MapError: this backbone has no such map; says what it has.
            TypeError, ValueError: as for :meth:`forward`.
        """
        check_image(image)
        # Weights in half precision are common for large models; what callers see stays theirs.
        dtype = next((p.dtype for p in self.parameters()), image.dtype)
        ready = self.normalize(self.fit(image)).to(dtype)
        return tuple(found.to(image.dtype) for found in self.extract_maps(ready, wants or (Want(),)))

    def fit(self, image: Tensor) -> Tensor:
        """A checked image (B, 3, H, W) at a size the network takes; a resize is told in a warning."""
        height, width = image.shape[-2:]
        h, w = self.grid(height, width)
        size = (h * self.patch_size, w * self.patch_size)
        if size == (height, width):
            return image
        warn_caller(
            f"image resized from {height}x{width} to {size[0]}x{size[1]}: "
            f"{type(self).__name__} needs multiples of {self.patch_size} pixels"
        )
        return F.interpolate(image, size, mode="bilinear", antialias=True)

    def extract(self, image: Tensor) -> Tensor:
        """Features (B, embed_dim, h, w) of a checked, normalised image whose sides fit the patch."""
        raise NotImplementedError(f"{type(self).__name__} must implement extract(image)")

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """The wanted maps of an image as :meth:`extract` gets it; here only what :meth:`extract` gives.

        Raises:
            MapError: for a map that this backbone does not have.
        """
        for want in wants:
            if want != Want():
                raise MapError(f"{type(self).__name__} has no {want.name}: it gives its last map only")
        return (self.extract(image),) * len(wants)


class Upsampler(nn.Module):
    """A feature upsampler: ``forward(image, features, output_size=None) -> (B, C, H, W)``.

    A subclass implements :meth:`upsample`; the base class checks the arguments. Normalisation of the
    image, where a method needs one, happens inside ``upsample``.

    Attributes:
        promises: what tasks may rely on; set it in the constructor where it depends on options.
        wants: the maps it needs of a backbone. With several, ``features`` is a mapping by ``Want.name``.
        origin: record and weights, where it was loaded by name.
    """

    promises: Promises = Promises()
    wants: tuple[Want, ...] = (Want(),)
    origin: Origin | None = None

    def gather(self, image: Tensor, backbone: nn.Module) -> Features:
        """What :meth:`forward` takes as features, from a backbone: by default the maps in :attr:`wants`.

        This is the only place where an upsampler meets a backbone. A method that needs more than maps of the
        whole image (tiles, jittered views) overrides it; see also :attr:`gather_key`.

        Args:
            image: (B, 3, H, W), RGB in [0, 1]; may have another size than the image that guides later.
            backbone: a :class:`Backbone`; for a method that only wants the last map, any module that maps
                images to (B, C, h, w).

        Returns:
            (B, C, h, w) if one map is wanted, else the maps by ``Want.name``.

        Raises:
            MapError: the backbone does not have a map that is wanted.
        """
        if isinstance(backbone, Backbone):
            found = backbone.maps(image, *self.wants)
        elif all(want == Want() for want in self.wants):
            found = (backbone(image),) * len(self.wants)
        else:
            names = ", ".join(want.name for want in self.wants)
            raise MapError(
                f"{type(self).__name__} wants {names}; {type(backbone).__name__} is no naf_hub.Backbone"
            )
        if len(self.wants) == 1:
            return found[0]
        return {want.name: features for want, features in zip(self.wants, found, strict=True)}

    @property
    def gather_key(self) -> tuple[Any, ...]:
        """What decides the result of :meth:`gather` besides image and backbone: features are cached under it."""
        if type(self).gather is Upsampler.gather:
            return (self.wants,)
        return (self.wants, f"{type(self).__module__}.{type(self).__qualname__}", self.extra_repr())

    def reference(self, features: Features) -> Tensor:
        """Features (B, C, h, w) in the space of the output, to compare it with; by default the first map, unchanged.

        A method whose output lives in another space (layer-normed, say) takes its low-resolution features there.
        """
        return features if isinstance(features, Tensor) else next(iter(features.values()))

    def forward(
        self, image: Tensor, features: Features, output_size: int | tuple[int, int] | None = None
    ) -> Tensor:
        """Upsample ``features`` under the guidance of ``image``.

        Args:
            image: (B, 3, H_img, W_img), RGB in [0, 1].
            features: (B, C, h, w) of any backbone; where several maps are wanted, all of them by name.
            output_size: an int (square) or (H, W); default the image's size.

        Returns:
            (B, C, H, W), dtype and device of ``features``. The memory format is the method's choice:
            use ``reshape`` or ``flatten`` rather than ``view``.

        Raises:
            TypeError, ValueError: see :mod:`naf_hub.checks`.
        """
        check_image(image)
        if isinstance(features, Mapping):
            missing = [want.name for want in self.wants if want.name not in features]
            if missing and type(self).gather is Upsampler.gather:
                raise ValueError(
                    f"features lack {', '.join(missing)}; take them from gather(image, backbone)"
                )
            for tensor in features.values():
                check_features(tensor, image)
        else:
            check_features(features, image)
        return self.upsample(image, features, check_output_size(output_size, image))

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        """The method itself, on checked arguments; see :meth:`forward`."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement upsample(image, features, output_size)"
        )

    def bench_floor(
        self, image: Tensor, features: Any, output_size: tuple[int, int]
    ) -> tuple[str, Callable[[], Any]] | None:
        """What ``naf-hub bench`` times in the same run to compare with: a label and a callable doing the
        arithmetic that this method cannot avoid (for example its bare convolutions), or ``None``."""
        return None


class Task:
    """What upsampled features are for. A subclass implements :meth:`train`, :meth:`evaluate`, or both.

    Attributes:
        name: the registered one.
        contends: record class of what it compares.
        version: of its protocol; figures of different versions do not compare.
        metrics: figures of each row of its reports; the first ranks.
    """

    name: ClassVar[str] = ""
    contends: ClassVar[type[Record]] = UpsamplerRecord
    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def train(self, **options: Any) -> dict[str, Any]:
        """Train and return a summary; raises ``NotImplementedError`` where the task cannot train."""
        raise NotImplementedError(f"task {self.name!r} does not train")

    def evaluate(
        self,
        contenders: Any,
        data: Any,
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: Any = None,
        device: Any = "cpu",
    ) -> Report:
        """Compare contenders, everything else being equal.

        Args:
            contenders: ``NAME[=WEIGHTS]``, :class:`~naf_hub.contenders.Contender` or modules; one, several, or
                modules by the label to report.
            data: what to evaluate on, as the task says.
            protocol: settings over the task's own, as plain data.
            backbone: ``NAME[=WEIGHTS]``, a contender or a module; ``None`` where the task needs none.
            device: where to compute.

        A task may take more keywords, for what changes no figure.

        Raises:
            NotImplementedError: the task cannot evaluate.
        """
        raise NotImplementedError(f"task {self.name!r} does not evaluate")

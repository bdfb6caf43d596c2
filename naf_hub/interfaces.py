"""The interfaces plugins implement. Images are RGB floats in [0, 1], shape (B, 3, H, W), everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, check_image, check_output, check_output_size, warn_caller
from .errors import MapError
from .images import as_batch
from .promises import Promises
from .records import IMAGENET_MEAN, IMAGENET_STD, Origin, Record, UpsamplerRecord
from .reports import Metric, Report
from .wants import Want

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


def _as_tensor(image: Any, like: Any) -> Tensor:
    """See :func:`naf_hub.images.as_batch`; what is no tensor yet goes to the device of ``like``."""
    if isinstance(image, Tensor) and image.dtype != torch.uint8:
        return image
    batch = as_batch(image)
    return batch if isinstance(image, Tensor) or not isinstance(like, Tensor) else batch.to(like.device)


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

    def forward(self, image: Any) -> Tensor:
        """Dense features of ``image``.

        Args:
            image: (B, 3, H, W), RGB in [0, 1], any H and W; or whatever
                :func:`naf_hub.images.as_batch` takes. Where a side is no multiple of ``patch_size`` the image is
                resized (bilinear, antialiased) to the nearest multiple, with a warning that names the sizes.

        Returns:
            (B, embed_dim, h, w) with ``h, w = grid(H, W)``, in the dtype of ``image`` whatever the weights'.

        Raises:
            TypeError, ValueError: see :func:`naf_hub.checks.check_image`.
        """
        return self.maps(image)[0]

    def maps(self, image: Any, *wants: Want) -> tuple[Tensor, ...]:
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
        image = _as_tensor(image, next((p for p in (*self.parameters(), *self.buffers())), None))
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
        promises: what tasks may rely on; set it in the constructor where it depends on options.
        wants: the maps it needs of a backbone. With several, ``features`` is a mapping by ``Want.name``.
        origin: record and weights, where it was loaded by name.
        takes_any_range: whether images may leave [0, 1] without a warning, being normalised by the caller.
    """

    promises: Promises = Promises()
    wants: tuple[Want, ...] = (Want(),)
    origin: Origin | None = None
    takes_any_range: bool = False

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
        self, image: Any, features: Features, output_size: int | tuple[int, int] | None = None
    ) -> Tensor:
        """Upsample ``features`` under the guidance of ``image``.

        Args:
            image: (B, 3, H_img, W_img), RGB in [0, 1]; or whatever :func:`naf_hub.images.as_batch` takes: an
                8-bit tensor, an array, a Pillow image, a path, a list of these.
            features: (B, C, h, w) of any backbone; where several maps are wanted, all of them by name.
            output_size: an int (square) or (H, W); default the image's size.

        Returns:
            (B, C, H, W), dtype and device of ``features``. The memory format is the method's choice:
            use ``reshape`` or ``flatten`` rather than ``view``.

        Raises:
            TypeError, ValueError: see :mod:`naf_hub.checks`.
        """
        image = _as_tensor(
            image, next(iter(features.values())) if isinstance(features, Mapping) else features
        )
        check_image(image, self.takes_any_range)
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
        size = check_output_size(output_size, image)
        output = self.upsample(image, features, size)
        return check_output(output, image, self.reference(features), size, type(self).__name__)

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


class Restorer(nn.Module):
    """Restores images: ``forward(image) -> restored``, of the same shape.

    A subclass implements :meth:`restore`; the base class checks what goes in and what comes out. A network that needs
    sides of certain multiples pads inside.

    Attributes:
        origin: record and weights, where it was loaded by name.
    """

    origin: Origin | None = None

    def forward(self, image: Any) -> Tensor:
        """The restored image.

        Args:
            image: (B, 3, H, W), RGB whose clean values lie in [0, 1], while noise may leave it; any H and W; or
                whatever :func:`naf_hub.images.as_batch` takes.

        Returns:
            (B, 3, H, W), dtype and device of the image. Values are the method's own and may leave [0, 1] slightly.

        Raises:
            TypeError, ValueError: see :func:`naf_hub.checks.check_image`.
        """
        image = _as_tensor(image, next((p for p in (*self.parameters(), *self.buffers())), None))
        check_image(image, any_range=True)
        size = (image.shape[-2], image.shape[-1])
        return check_output(self.restore(image), image, image, size, type(self).__name__)

    def restore(self, image: Tensor) -> Tensor:
        """The method itself, on a checked image (B, 3, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} must implement restore(image)")


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

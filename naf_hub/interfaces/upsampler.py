"""The interface of upsamplers: image and low-resolution features to features of any size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..checks import (
    check_buffer,
    check_features,
    check_image,
    check_output,
    check_output_size,
    check_points,
    found_right,
    looks_at,
)
from ..errors import MapError
from ..flops import Flops
from ..images import as_batch_for
from ..promises import Promises
from ..records import BackboneRecord, Origin
from ..streaming import fill
from ..wants import Want
from .backbone import Backbone
from .plain_module import require_map

# What an upsampler gathers of a backbone: one map, or several by name.
Features: TypeAlias = "Tensor | Mapping[str, Tensor]"


class Upsampler(nn.Module):
    """A feature upsampler: ``forward(image, features, output_size=None) -> (B, C, H, W)``.

    A subclass implements :meth:`upsample`; the base class checks the arguments (on accelerators their values only
    in the first call of a size, so that later calls do not wait for the device). Normalisation of the image, where a
    method needs one, happens inside ``upsample``.

    Attributes:
        promises: what tasks may rely on; set it in the constructor where it depends on options.
        channels: how many feature channels it is made for, where it takes no other number. The constructor then has an
            argument of that name, which is filled in where the backbone is known.
        wants: the maps it needs of a backbone. With several, ``features`` is a mapping by ``Want.name``.
        origin: record and weights, where it was loaded by name.
        guided: whether the image has any influence on the output.
        learns_to_gather: whether :meth:`gather` has parameters that training learns. It is then called with gradients,
            for each step anew.
        takes_any_range: whether images may leave [0, 1] without a warning, being normalised by the caller.
    """

    promises: Promises = Promises()
    channels: int | None = None
    wants: tuple[Want, ...] = (Want(),)
    origin: Origin | None = None
    guided: bool = True
    learns_to_gather: bool = False
    takes_any_range: bool = False

    def gather(self, image: Tensor, backbone: nn.Module) -> Features:
        """What :meth:`forward` takes as features, from a backbone: by default the maps in :attr:`wants`.

        This is the only place where an upsampler meets a backbone. A method that needs more than maps of the
        whole image (tiles, jittered views) overrides it; see also :attr:`gather_key`. :meth:`reference` must then take
        the last map alone, too, which training compares the output with.

        Args:
            image: (B, 3, H, W), RGB in [0, 1]; may have another size than the image that guides later.
            backbone: a :class:`Backbone`; for a method that only wants the last map, any module that maps
                images to (B, C, h, w).

        Returns:
            (B, C, h, w) if one map is wanted, else the maps by ``Want.name``.

        Raises:
            MapError: the backbone does not have a map that is wanted, or a plain module's output is no map.
        """
        if isinstance(backbone, Backbone):
            found = backbone.maps(image, *self.wants)
        elif all(want == Want() for want in self.wants):
            found = (require_map(backbone(image), backbone),) * len(self.wants)
        else:
            names = ", ".join(want.name for want in self.wants)
            raise MapError(
                f"{type(self).__name__} wants {names}; {type(backbone).__name__} is no naf_hub.Backbone"
            )
        if len(self.wants) == 1:
            return found[0]
        return {want.name: features for want, features in zip(self.wants, found, strict=True)}

    @classmethod
    def lacks(cls, backbone: BackboneRecord, options: Mapping[str, Any]) -> str:
        """What a backbone does not have that the method needs, told before either is built or fetched.

        By default that is what :attr:`wants` of the class says; a method whose options decide overrides it. What no
        record states (``network=""``) is left to :meth:`gather`.

        Args:
            backbone: its record.
            options: constructor options of the method.

        Returns:
            The end of "the backbone has no ...", or nothing where all is there.
        """
        inner = [want.name for want in cls.wants if want.kind != "token"]
        return ", ".join(inner) if backbone.network == "stages" else ""

    def gather_example(self, image: Tensor, backbone: Backbone) -> Features:
        """Features to time and check the method on, of a backbone that gives every map but has no weights. By default
        what :meth:`gather` gives; a method that changes weights of its backbone there says what they look like."""
        return self.gather(image, backbone)

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
        self,
        image: Any,
        features: Features,
        output_size: int | tuple[int, int] | None = None,
        output: Tensor | None = None,
    ) -> Tensor:
        """Upsample ``features`` under the guidance of ``image``.

        Args:
            image: (B, 3, H_img, W_img), RGB in [0, 1]; or whatever :func:`naf_hub.images.as_batch` takes: an
                8-bit tensor, an array, a Pillow image, a path, a list of these.
            features: (B, C, h, w) of any backbone; where several maps are wanted, all of them by name.
            output_size: an int (square) or (H, W); default the image's size.
            output: a buffer (B, C, H, W) to write the result to, of the features' dtype, on their device or on the
                CPU, of any strides. What it holds after an error is undefined.

        Returns:
            (B, C, H, W), dtype and device of ``features``. The memory format is the method's choice:
            use ``reshape`` or ``flatten`` rather than ``view``. With ``output``, that buffer.

        Raises:
            TypeError, ValueError: see :mod:`naf_hub.checks`.
        """
        image, size = self._check(image, features, output_size)
        if output is None:
            return self._whole(image, features, size)
        check_buffer(output, image, features, self.reference(features), size)
        self.upsample_into(image, features, size, output)
        return output

    def stream(
        self,
        image: Any,
        features: Features,
        output_size: int | tuple[int, int] | None = None,
        rows: tuple[int, int] | None = None,
    ) -> Iterator[Tensor]:
        """What :meth:`forward` returns in strips of rows, from the top down, for maps larger than memory.

        A method that works by rows never holds the whole map (NAF: nor the whole guidance, at four times the
        encoder's arithmetic); any other computes it once and gives it in one strip. Strips go into a buffer
        by :func:`naf_hub.streaming.fill` and into a file by :func:`naf_hub.streaming.save_rows`.

        Args:
            image: as for :meth:`forward`; checked at once, before the first strip, as are the features.
            features: as for :meth:`forward`.
            output_size: as for :meth:`forward`.
            rows: first row and the one behind the last, of the output; default all.

        Yields:
            (B, C, n, W), together the rows that were asked for.

        Raises:
            TypeError, ValueError: as :meth:`forward`, or rows that the output does not have.
        """
        image, size = self._check(image, features, output_size)
        start, stop = (0, size[0]) if rows is None else (operator.index(row) for row in rows)
        if not 0 <= start < stop <= size[0]:
            raise ValueError(f"rows must be (start, stop) within 0 and {size[0]}, got {rows!r}")
        return self.upsample_rows(image, features, size, (start, stop))

    def features_at(
        self,
        image: Any,
        features: Features,
        points: Any,
        output_size: int | tuple[int, int] | None = None,
    ) -> Tensor:
        """What :meth:`forward` returns at chosen pixels of the output, without its map where the method can.

        Costs with the number of points beside what the method needs of the whole image (NAF: its guidance);
        a method that cannot pick pixels makes rows and keeps the points on them. Gradients flow as through the map.

        Args:
            image: as for :meth:`forward`.
            features: as for :meth:`forward`.
            points: (N, 2) for every image, or (B, N, 2): whole (x, y), columns before rows, from (0, 0) at the top
                left to (W - 1, H - 1). A fraction f of the width is pixel ``int(f * W)``.
            output_size: as for :meth:`forward`: the size of the map whose pixels are meant.

        Returns:
            (B, C, N), dtype and device of ``features``: ``forward(...)[b, :, y, x]`` to rounding.

        Raises:
            TypeError, ValueError: as :meth:`forward`, or points that are not whole or not on the output.
        """
        image, size = self._check(image, features, output_size)
        return self.upsample_points(image, features, size, check_points(points, image, size))

    def _check(
        self, image: Any, features: Features, output_size: int | tuple[int, int] | None
    ) -> tuple[Tensor, tuple[int, int]]:
        """The image as a batch and the output's size; what is wrong with any of them is raised."""
        maps = tuple(features.values()) if isinstance(features, Mapping) else (features,)
        image = as_batch_for(image, maps[0] if maps else None)
        values = looks_at(self, image, *maps)
        check_image(image, self.takes_any_range, values)
        if isinstance(features, Mapping):
            missing = [want.name for want in self.wants if want.name not in features]
            if missing and type(self).gather is Upsampler.gather:
                raise ValueError(
                    f"features lack {', '.join(missing)}; take them from gather(image, backbone)"
                )
            if len(self.wants) == 1 and type(self).gather is Upsampler.gather:
                name = self.wants[0].name
                raise TypeError(f"features must be the map itself, (B, C, h, w); pass features[{name!r}]")
            for tensor in maps:
                check_features(tensor, image, values)
        else:
            check_features(features, image, values)
            if self.channels is not None and features.shape[1] != self.channels:
                raise ValueError(
                    f"{type(self).__name__} is made for features of {self.channels} channels, got {features.shape[1]}"
                )
        if values:
            found_right(self, image, *maps)
        return image, check_output_size(output_size, image)

    def _whole(self, image: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
        """What :meth:`upsample` returns, checked."""
        output = self.upsample(image, features, size)
        return check_output(output, image, self.reference(features), size, type(self).__name__)

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        """The method itself, on checked arguments; see :meth:`forward`."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement upsample(image, features, output_size)"
        )

    def upsample_rows(
        self, image: Tensor, features: Any, output_size: tuple[int, int], rows: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Rows of :meth:`upsample` in strips, see :meth:`stream`; a method that can make rows alone overrides it."""
        yield self._whole(image, features, output_size)[:, :, slice(*rows)]

    def upsample_into(
        self, image: Tensor, features: Any, output_size: tuple[int, int], output: Tensor
    ) -> None:
        """:meth:`upsample` into a checked buffer (B, C, H, W), as its strips of rows come; a method that can write
        its result where it is wanted overrides it."""
        fill(output, self.upsample_rows(image, features, output_size, (0, output_size[0])))

    def upsample_points(
        self, image: Tensor, features: Any, output_size: tuple[int, int], points: Tensor
    ) -> Tensor:
        """Pixels of :meth:`upsample`, see :meth:`features_at`; a method that can make pixels alone overrides it.

        Args:
            image: checked.
            features: checked.
            output_size: (H, W).
            points: (B, N, 2) int64 (x, y), checked, on the image's device.

        Returns:
            (B, C, N).
        """
        x, y = points.unbind(-1)
        first, last = (int(row) for row in y.aminmax())
        picked, places = [], []
        for strip in self.upsample_rows(image, features, output_size, (first, last + 1)):
            sample, place = ((y >= first) & (y < first + strip.shape[2])).nonzero(as_tuple=True)
            picked.append(strip[sample, :, y[sample, place] - first, x[sample, place]])
            places.append(sample * points.shape[1] + place)
            first += strip.shape[2]
        order = torch.cat(places).argsort()
        return torch.cat(picked)[order].unflatten(0, points.shape[:2]).mT

    def bench_floor(
        self, image: Tensor, features: Any, output_size: tuple[int, int]
    ) -> tuple[str, Callable[[], Any]] | None:
        """What ``naf-hub bench`` times in the same run to compare with: a label and a callable doing the
        arithmetic that this method cannot avoid (for example its bare convolutions), or ``None``."""
        return None

    def flops(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Flops | None:
        """Operations of the method as it is defined, where an implementation does others (attention by tiles, say);
        ``None``: those that run are counted, see :mod:`naf_hub.flops`."""
        return None

"""Frozen features, gathered once a view and kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from .interfaces import Features, Upsampler

PRECISIONS: dict[str, torch.dtype | None] = {"float32": torch.float32, "float16": torch.float16, "off": None}

Key = tuple[int, tuple[Any, ...], Hashable]


def each_map(function: Callable[..., Tensor], *features: Features) -> Features:
    """``function`` of the map, or of each map by name; of several features, of the maps that belong together."""
    first = features[0]
    if isinstance(first, Tensor):
        return function(*features)
    return {name: function(*(found[name] for found in features)) for name in first}  # pyright: ignore


def maps_in(features: Features) -> list[Tensor]:
    """The map, or all maps."""
    return list(features.values()) if isinstance(features, Mapping) else [features]


class FeatureStore:
    """What upsamplers gather of frozen backbones: one pass for all that want the same of the same view.

    Features are kept under the backbone (the module itself), the upsampler's ``gather_key`` and the caller's key of
    the view. Without a copy of the backbone's weights nothing can tell that they changed: they must not.

    Args:
        precision: ``"float32"`` (exact), ``"float16"`` (half the memory), ``"off"`` (always compute), or ``"auto"``:
            float32 where ``expected`` views of what is gathered fit in half the free memory, else off.
        expected: number of views, for ``"auto"``.
        device: where backbones run and features are returned; what is kept lies in RAM.

    Raises:
        ValueError: no such precision.
    """

    def __init__(
        self, precision: str = "auto", expected: int = 1, device: str | torch.device = "cpu"
    ) -> None:
        if precision not in (*PRECISIONS, "auto"):
            raise ValueError(f"cache must be auto, {', '.join(PRECISIONS)}, got {precision!r}")
        self.asked = precision
        self.expected = expected
        self.device = torch.device(device)
        self.chosen: dict[tuple[int, tuple[Any, ...]], str] = {}
        self.kept: dict[Key, Features] = {}
        # Held, so that no other backbone can get the identity of one whose features are kept.
        self.backbones: dict[int, nn.Module] = {}

    @property
    def precision(self) -> str:
        """What was asked for; of ``"auto"`` what it became, once something was gathered."""
        return "/".join(sorted(set(self.chosen.values()))) or self.asked

    @torch.no_grad()
    def gather(
        self, upsampler: Upsampler, backbone: nn.Module, images: Sequence[Tensor], views: Sequence[Hashable]
    ) -> Features:
        """float32 features (B, C, h, w), or several by name, of B images; what is kept is not computed again.

        Args:
            upsampler: gathers.
            backbone: frozen, in eval mode, on the device of the store.
            images: B of (3, H, W), RGB in [0, 1], of one size.
            views: what each image is, such as split, position and whether it is mirrored.

        Raises:
            MapError: the backbone does not have a map that is wanted.
            ValueError: features leave the range of float16, where they are kept in it.
        """
        source = (id(backbone), upsampler.gather_key)
        self.backbones[id(backbone)] = backbone
        keys: list[Key] = [(*source, view) for view in views]
        missing = [i for i, key in enumerate(keys) if key not in self.kept]
        fresh: dict[int, Features] = {}
        if missing:
            batch = torch.stack([images[i] for i in missing]).to(self.device)
            found = each_map(Tensor.float, upsampler.gather(batch, backbone))
            fresh = {i: each_map(lambda t, n=n: t[n], found) for n, i in enumerate(missing)}
            self._keep(source, {keys[i]: features for i, features in fresh.items()})
        # Rounded as it is kept on the first use too: results must not depend on what came before.
        one_by_one = [self._stored(key) if key in self.kept else fresh[i] for i, key in enumerate(keys)]
        return each_map(lambda *maps: torch.stack(maps), *one_by_one)

    def clear(self) -> None:
        """Forget all features and backbones."""
        self.kept.clear()
        self.backbones.clear()

    def _stored(self, key: Key) -> Features:
        return each_map(lambda t: t.to(self.device).float(), self.kept[key])

    def _keep(self, source: tuple[int, tuple[Any, ...]], fresh: Mapping[Key, Features]) -> None:
        if source not in self.chosen:
            self.chosen[source] = self._choose(next(iter(fresh.values())))
        dtype = PRECISIONS[self.chosen[source]]
        if dtype is None:
            return
        for key, features in fresh.items():
            kept = each_map(lambda t: t.cpu().to(dtype, copy=True), features)
            if dtype is torch.float16 and not all(torch.isfinite(t).all() for t in maps_in(kept)):
                raise ValueError("features exceed float16; use --cache float32 or off")
            self.kept[key] = kept

    def _choose(self, one: Features) -> str:
        if self.asked != "auto":
            return self.asked
        needed = sum(t.nbytes for t in maps_in(one)) * self.expected
        return "float32" if needed < psutil.virtual_memory().available / 2 else "off"

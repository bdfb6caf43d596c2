"""A photo segmented into classes that are named in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Backbone, Upsampler
from naf_hub.store import FeatureStore

from .clip import Clip
from .sliding import SlidingWindow, working_size
from .vocabulary import Vocabulary
from .vocabulary_protocol import VocabularyProtocol

PIXELS_A_CELL = 4


@dataclasses.dataclass
class View:
    """A picture cut to windows, with what CLIP makes of them before any features enter.

    Attributes:
        size: (H, W) of the picture.
        windows: where they lie.
        crops: (1, 3, H, W) each, in [0, 1].
        trunks: see :meth:`naf_hub_open_vocabulary.clip.Clip.trunk`.
        store: keeps what upsamplers gather of the crops.
    """

    size: tuple[int, int]
    windows: SlidingWindow
    crops: list[Tensor]
    trunks: list[tuple[Tensor, tuple[int, int]]]
    store: FeatureStore


class Segmenter:
    """Segments pictures: :meth:`look` once a picture, then :meth:`segment` for each upsampler.

    Args:
        clip: see :func:`naf_hub_open_vocabulary.clip.load_clip`.
        backbone: whose features outline; on CLIP's device.
        vocabulary: what is looked for.
        protocol: see :meth:`VocabularyProtocol.read`.
        device: where the models are.
    """

    def __init__(
        self,
        clip: Clip,
        backbone: Backbone,
        vocabulary: Vocabulary,
        protocol: VocabularyProtocol,
        device: Any = "cpu",
    ) -> None:
        self.clip, self.backbone, self.vocabulary, self.protocol = clip, backbone, vocabulary, protocol
        self.device = torch.device(device)
        self.queries = clip.encode_queries(vocabulary.queries)
        self.threshold = vocabulary.threshold if protocol.threshold is None else protocol.threshold
        self.scale = protocol.scale or max(1, round(backbone.patch_size / PIXELS_A_CELL))

    @torch.no_grad()
    def look(self, image: Tensor) -> View:
        """Cut a picture (3, H, W) in [0, 1] to windows, and run CLIP up to its last block."""
        chosen = self.protocol
        assert chosen.short_side is not None
        assert chosen.crop is not None
        assert chosen.stride is not None
        height, width = image.shape[-2:]
        size = working_size(height, width, chosen.short_side, chosen.long_side)
        small = F.interpolate(image[None].to(self.device), size, mode="bilinear", antialias=True).clamp(0, 1)
        multiple = math.lcm(self.clip.patch_size, self.backbone.patch_size)
        windows = SlidingWindow(size, chosen.crop, chosen.stride, multiple)
        # Around the picture is what CLIP's normalisation makes zero, as published.
        crops = windows.cut(small, self.clip.normalize.mean.flatten())
        trunks = [self.clip.trunk(crop) for crop in crops]
        return View((height, width), windows, crops, trunks, FeatureStore("float32", device=self.device))

    @torch.no_grad()
    def score(self, view: View, upsampler: Upsampler | None) -> Tensor:
        """(Q, h, w) cosines of the picture with each query, at the size that windows are cut from.

        Args:
            view: see :meth:`look`.
            upsampler: of the backbone's features; ``None`` leaves CLIP alone, without a backbone.
        """
        return view.windows.join(self._window(view, number, upsampler) for number in range(len(view.crops)))[
            0
        ]

    def segment(self, view: View, upsampler: Upsampler | None, size: tuple[int, int] | None = None) -> Tensor:
        """(H, W) int64 class of each pixel; ``size`` is the picture's own unless given."""
        return predict(
            self.score(view, upsampler), self.vocabulary.owners, size or view.size, self.protocol.temperature,
            self.threshold,
        )  # fmt: skip

    def _window(self, view: View, number: int, upsampler: Upsampler | None) -> Tensor:
        crop, features = view.crops[number], None
        if upsampler is not None:
            gathered = view.store.gather(upsampler, self.backbone, [crop[0]], [number])
            h, w = self.backbone.grid(crop.shape[-2], crop.shape[-1])
            features = upsampler(crop, gathered, (self.scale * h, self.scale * w))
        cells = self.clip.finish(*view.trunks[number], features, self.protocol.beta, self.protocol.gamma)
        cosines = torch.einsum("qe,behw->bqhw", self.queries, F.normalize(cells, dim=1))
        return F.interpolate(cosines, crop.shape[-2:], mode="bilinear")


def predict(
    scores: Tensor, owners: Sequence[int], size: tuple[int, int], temperature: float, threshold: float = 0.0
) -> Tensor:
    """Classes of the queries that fit best.

    The probability of a class is that of its best query, in a softmax over all queries. One query at a time is
    brought to ``size``, so that the memory needed does not grow with their number.

    Args:
        scores: (Q, h, w) cosines.
        owners: class of each query.
        size: (H, W) of the result.
        temperature: what scores are multiplied by before the softmax.
        threshold: where the best class is less probable, class 0 is taken.

    Returns:
        (H, W) int64 on the CPU.
    """

    def enlarged(query: int) -> Tensor:
        return F.interpolate(scores[None, query : query + 1], size, mode="bilinear")[0, 0]

    best, labels = enlarged(0), torch.full(size, owners[0], device=scores.device)
    for query in range(1, len(owners)):
        score = enlarged(query)
        labels.masked_fill_(score > best, owners[query])
        best = torch.maximum(best, score)
    if threshold > 0:
        total = torch.zeros_like(best)
        for query in range(len(owners)):
            total += (temperature * (enlarged(query) - best)).exp()
        labels.masked_fill_(1 / total < threshold, 0)
    return labels.cpu()

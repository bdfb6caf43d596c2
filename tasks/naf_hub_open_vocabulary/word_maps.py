"""Where one thing is in a picture that is named in words: a map of cosines, with nothing else to compare with."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from naf_hub import Backbone, Upsampler

from .clip import CONFIG, FILE, Clip, load_clip
from .segmenter import Segmenter
from .vocabulary import SYNONYMS, Vocabulary
from .vocabulary_protocol import VocabularyProtocol


def is_here(source: str) -> bool:
    """Whether the files of a CLIP, and OpenCLIP to read them, are on this machine; nothing is fetched.

    Args:
        source: see :func:`~naf_hub_open_vocabulary.clip.load_clip`.
    """
    if importlib.util.find_spec("open_clip") is None:
        return False
    if not source.startswith("hf://"):
        return all((Path(source).expanduser() / name).is_file() for name in (CONFIG, FILE))
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = source.removeprefix("hf://").partition("@")
    found = (try_to_load_from_cache(repo, name, revision=revision or None) for name in (CONFIG, FILE))
    return all(isinstance(path, str) for path in found)


class WordMaps:
    """Finds things in pictures. CLIP is loaded when it is first asked.

    Args:
        settings: of :class:`VocabularyProtocol`; the short side of the picture, the CLIP and so on.
        device: where CLIP, backbones and upsamplers are.
    """

    def __init__(self, settings: Mapping[str, Any], device: Any = "cpu") -> None:
        self.protocol, self.device = VocabularyProtocol.read(settings), device

    @functools.cached_property
    def clip(self) -> Clip:
        return load_clip(self.protocol.clip, self.device)

    def find(self, image: Tensor, words: str, backbone: Backbone, upsampler: Upsampler) -> Tensor:
        """Cosines of CLIP, attending as upsampled features say, with words.

        Args:
            image: (3, H, W) in [0, 1].
            words: what to look for; of synonyms parted by ``;`` the one that fits best counts at each pixel.
            backbone, upsampler: whose features outline.

        Returns:
            (h, w), at the size of the protocol.

        Raises:
            ValueError: no words.
            MissingExtraError, WeightsError: see :func:`~naf_hub_open_vocabulary.clip.load_clip`.
        """
        queries = tuple(" ".join(part.split()) for part in words.split(SYNONYMS))
        if not all(queries):
            raise ValueError("name what to look for in words, such as: cat")
        segmenter = Segmenter(
            self.clip, backbone, Vocabulary(queries[:1], (queries,)), self.protocol, self.device
        )
        return segmenter.score(segmenter.look(image), upsampler).amax(0)

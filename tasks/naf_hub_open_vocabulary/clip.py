"""CLIP: texts and pictures in one space. OpenCLIP builds it and reads texts; files come from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Normalize, Weights, WeightsError
from naf_hub.errors import MissingExtraError
from naf_hub.weights import load_into, read_state_dict
from naf_hub.weights.hub import fetch
from naf_hub.weights.json_objects import read_object

from .proxy_attention import attend_by_proxy

CONFIG, FILE = "open_clip_config.json", "open_clip_model.safetensors"
TEXTS = 256
"""So many texts are read at once."""


def load_clip(source: str, device: Any = "cpu") -> Clip:
    """The CLIP of a Hub repository or a folder, frozen.

    Args:
        source: ``hf://owner/repo[@revision]``, or a folder; ``open_clip_config.json`` and
            ``open_clip_model.safetensors`` lie there.
        device: where to put it.

    Raises:
        MissingExtraError: OpenCLIP is not installed.
        WeightsError: the files cannot be had, or do not belong together, or are no CLIP of two plain transformers.
    """
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("open vocabulary needs OpenCLIP: pip install 'naf-hub[eval]'") from error
    what = f"CLIP {source!r}"
    config_file, file, origin = _find(source, what)
    config = read_object(config_file)
    model_config = dict(config.get("model_cfg", config))
    # OpenAI trained with QuickGELU; a configuration that leaves it out would be wrong in silence.
    model_config.setdefault("quick_gelu", source.partition("@")[0].endswith(".openai"))
    with torch.random.fork_rng(devices=[]):
        try:
            model = open_clip.CLIP(**model_config)
        except Exception as error:  # of whatever the configuration makes OpenCLIP do
            line = " ".join(str(error).split())
            raise WeightsError(f"{what}: OpenCLIP builds no such CLIP ({line})") from error
    _require_plain(model, what)
    load_into(model, read_state_dict(file), f"{what} ({FILE})")
    shown = config.get("preprocess_cfg", {})
    mean = shown.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = shown.get("std", open_clip.OPENAI_DATASET_STD)
    return Clip(model, mean, std, origin).eval().requires_grad_(False).to(device)


def _find(source: str, what: str) -> tuple[Path, Path, dict[str, Any]]:
    """Configuration and weights, of one commit, and what a report says of them."""
    if source.startswith("hf://"):
        repository = Weights(f"{source}/{CONFIG}").repository
        try:
            config = fetch(Weights(f"{source}/{CONFIG}"), what)
        except WeightsError as error:  # which advises to fetch this file; alone it would not do
            advice = f"hf download {repository} {CONFIG}"
            raise WeightsError(str(error).replace(advice, f"{advice} {FILE}")) from error.__cause__
        file = fetch(Weights(f"hf://{repository}@{config.commit}/{FILE}"), what)
        return config.path, file.path, {"clip": source, "commit": config.commit}
    folder = Path(source).expanduser()
    for name in (CONFIG, FILE):
        if not (folder / name).is_file():
            raise WeightsError(
                f"{what}: no file {folder / name}; give hf://owner/repo or a folder with {CONFIG} and {FILE}"
            )
    return folder / CONFIG, folder / FILE, {"clip": folder.resolve().name}


def _require_plain(model: Any, what: str) -> None:
    from open_clip import CLIPTextCfg
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    visual = model.visual
    plain = isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.proj is not None
    blocks = visual.transformer.resblocks if plain else []
    if not plain or not all(
        isinstance(block, ResidualAttentionBlock) and isinstance(block.ls_1, nn.Identity) for block in blocks
    ):
        raise WeightsError(f"{what}: its image side is no plain transformer such as ViT-B-16; choose another")
    if model.text_pool_type != "argmax" or model.vocab_size != CLIPTextCfg.vocab_size:
        raise WeightsError(f"{what}: its text side does not read CLIP's own tokens; choose another")


class Clip(nn.Module):
    """Both sides of a CLIP.

    Args:
        model: an ``open_clip.CLIP`` of two plain transformers.
        mean, std: normalisation of images in [0, 1].
        origin: where it comes from, for reports.
    """

    def __init__(
        self, model: Any, mean: Sequence[float], std: Sequence[float], origin: dict[str, Any]
    ) -> None:
        super().__init__()
        self.model = model
        self.normalize = Normalize(mean, std)
        self.origin = origin

    @property
    def patch_size(self) -> int:
        """Pixels of the side of a cell."""
        return int(self.model.visual.patch_size[0])

    @torch.no_grad()
    def encode_queries(self, queries: Sequence[str]) -> Tensor:
        """(Q, E) unit vectors: of each query in OpenAI's 80 sentences, the mean of the unit vectors."""
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES as TEMPLATES

        texts = [template(query) for query in queries for template in TEMPLATES]
        parts = [self.encode_texts(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
        mean = F.normalize(torch.cat(parts), dim=-1).view(len(queries), len(TEMPLATES), -1).mean(1)
        return F.normalize(mean, dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, E) embeddings of texts.

        Each token sees only those before it, so that what follows the longest text's end is not computed.
        """
        import open_clip

        model = self.model
        tokens = open_clip.tokenize(list(texts), model.context_length).to(model.positional_embedding.device)
        end = tokens.argmax(-1)
        length = int(end.max()) + 1
        x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        x = x[torch.arange(len(x), device=x.device), end]
        projection = model.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def trunk(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens before the last block.

        Args:
            image: (B, 3, H, W) in [0, 1], whose sides are multiples of the patch.

        Returns:
            (B, 1 + r * c, D), the class token first, and (r, c).
        """
        visual = self.model.visual
        cells = visual.conv1(self.normalize(image))
        grid = (cells.shape[-2], cells.shape[-1])
        first = visual.class_embedding.expand(len(cells), 1, -1)
        x = torch.cat([first, cells.flatten(2).mT], 1) + _positions(visual, grid)
        x = visual.ln_pre(x)
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        return x, grid

    def finish(
        self, tokens: Tensor, grid: tuple[int, int], features: Tensor | None, beta: float, gamma: float
    ) -> Tensor:
        """(B, E, H, W) embeddings of :meth:`trunk`'s cells.

        Args:
            tokens, grid: of :meth:`trunk`.
            features: (B, C, H, W), by which the last block attends, see
                :func:`~naf_hub_open_vocabulary.proxy_attention.attend_by_proxy`; ``None`` takes that block as it is.
            beta, gamma: as there.
        """
        visual = self.model.visual
        last = visual.transformer.resblocks[-1]
        if features is None:
            x = last(tokens)[:, 1:]
        else:
            x = attend_by_proxy(last.attn, last.ln_1(tokens), grid, features, beta, gamma)
            grid = (features.shape[-2], features.shape[-1])
        return (visual.ln_post(x) @ visual.proj).mT.unflatten(-1, grid)


def _positions(visual: Any, grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1 + r * c, D) of another grid, as ProxyCLIP resizes them: its scale is a little too large
    on purpose, and used as it is."""
    positions, native = visual.positional_embedding, visual.grid_size
    if tuple(native) == grid:
        return positions
    cells = positions[1:].T.unflatten(-1, native)[None]
    scale = [(side + 0.1) / before for side, before in zip(grid, native, strict=True)]
    cells = F.interpolate(cells, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    return torch.cat([positions[:1], cells[0].flatten(1).T])

"""An independent, slow statement of NAF's attention: explicit loops in float64 over every output pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

GOLDENS = Path(__file__).parent / "goldens"


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{name}.safetensors")


def golden_cases(name: str) -> dict[str, dict]:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["cases"])


def released_state() -> dict[str, Tensor]:
    return golden("naf_dim256_state")


def axis_window(size: int, cells: int, kernel: int, i: int, border: str) -> list[int | None]:
    """High-resolution positions of the window of ``i``; ``None`` for a slot outside the map."""
    dilation = size // cells
    members = [p for p in range(size) if p % dilation == i % dilation]
    here = members.index(i)
    if border == "shifted":
        kernel = min(kernel, size // dilation)
        first = min(max(here - kernel // 2, 0), len(members) - kernel)
        return list(members[first : first + kernel])
    centred = range(here - kernel // 2, here - kernel // 2 + kernel)
    return [members[j] if 0 <= j < len(members) else None for j in centred]


def loop_attention(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, kernel: int, border: str = "shifted"
) -> tuple[Tensor, list]:
    """Attention of (C, H, W) queries on (C, h, w) keys and (D, h, w) values, pixel by pixel.

    ``border`` says what happens where the centred window leaves the map: ``"shifted"`` inward (the published
    operator), ``"zero"`` keys and values, or ``"masked"`` slots (both common and wrong).

    Returns:
        output (D, H, W) and, for each head, the logits of each pixel in slot order.
    """
    height, width = queries.shape[1:]
    h, w = keys.shape[1:]

    def blow_up(maps: Tensor) -> Tensor:
        index = torch.arange(h * w, dtype=torch.float32).view(1, 1, h, w)
        index = F.interpolate(index, (height, width), mode="nearest-exact").long().flatten()
        return maps.flatten(1)[:, index].view(-1, height, width)

    groups = zip(
        queries.double().chunk(heads),
        blow_up(keys.double()).chunk(heads),
        torch.tensor_split(blow_up(values.double()), heads),
        strict=True,
    )
    outputs, all_logits = [], []
    rows = [axis_window(height, h, kernel, y, border) for y in range(height)]
    columns = [axis_window(width, w, kernel, x, border) for x in range(width)]
    for group in groups:
        q, k, v = (t.numpy() for t in group)
        out = np.zeros((len(v), height, width))
        logits = []
        for y in range(height):
            for x in range(width):
                slots = [(r, c) for r in rows[y] for c in columns[x]]
                inside = np.array([r is not None and c is not None for r, c in slots])
                r = np.array([r or 0 for r, _ in slots])
                c = np.array([c or 0 for _, c in slots])
                scores = (q[:, y, x] @ k[:, r, c]) / np.sqrt(len(q)) * inside
                logits.append(scores)
                weights = np.exp(scores - scores.max())
                if border == "masked":
                    weights = weights * inside
                out[:, y, x] = (v[:, r, c] * inside) @ (weights / weights.sum())
        outputs.append(out)
        all_logits.append(logits)
    return torch.from_numpy(np.concatenate(outputs)), all_logits

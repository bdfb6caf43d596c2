"""Features of one photo, written to a file with the record of how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .atomic import atomic_file
from .made_with import KEY, sidecar
from .safetensors_saving import save_tensors

if TYPE_CHECKING:
    from torch import Tensor


def write_features(target: Path, features: Tensor, low: Tensor, dtype: str, made: str) -> None:
    """Write features (C, H, W), and in safetensors the low-resolution (C, h, w) ones beside them.

    Args:
        target: a ``.safetensors`` or ``.npy`` file.
        features, low: the tensors.
        dtype: ``"float16"`` or ``"float32"``, of what is written.
        made: see :func:`naf_hub.made_with.record`.

    Raises:
        OSError: it cannot be written.
    """
    import torch

    tensors = {"features": features, "low_res": low}
    tensors = {k: v.detach().to("cpu", getattr(torch, dtype)).contiguous() for k, v in tensors.items()}
    if target.suffix == ".npy":
        import numpy as np

        sidecar(target).unlink(missing_ok=True)  # it must never tell of another array
        with atomic_file(target) as temporary:
            np.save(temporary, tensors["features"].numpy())
        with atomic_file(sidecar(target)) as temporary:
            temporary.write_text(made, encoding="ascii")
        return
    save_tensors(target, tensors, {KEY: made})

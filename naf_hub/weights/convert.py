"""Pickled checkpoints to safetensors folders, once, safely."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from ..registry import info
from .checksums import sha256_of
from .files import load_into, save_weights
from .pickles import read_pickle


def convert(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    name: str,
    options: dict[str, Any] | None = None,
    *,
    keys: Sequence[str] | None = None,
    force: bool = False,
) -> Path:
    """Convert a ``torch.save`` state dict to a weights folder, after checking that it fits ``name``.

    Args:
        file: ``.pth``, ``.pt`` or ``.bin``; read with ``weights_only=True``.
        out: folder to write; must not exist unless ``force``.
        name: registered upsampler or backbone.
        options: constructor options the weights need.
        keys: the keys, outermost first, under which the file hides its state dict; default those that the record
            of ``name`` states.
        force: replace an existing weights folder.

    Returns:
        The folder.

    Raises:
        WeightsError: unsafe, damaged, or not for this model.
        FileExistsError: ``out`` exists.
    """
    source, target = Path(file), Path(out)
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; use --force to replace it")
    if target.exists() and not (target / "config.json").is_file() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not a weights folder; --force will not delete it")
    if source.suffix == ".safetensors":
        raise WeightsError(f"{source} is safetensors already; pass it as weights=")
    record = info(name)
    state = read_pickle(source, record.state_dict_keys if keys is None else keys)
    options = dict(options or {})
    load_into(record.resolve()(**{**record.options, **options}), state, str(source))
    provenance = {"converted_from": source.name, "sha256": sha256_of(source)}
    return save_weights(target, state, name=name, options=options, provenance=provenance)

"""Pickled checkpoints to safetensors folders, once, safely."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..construction import construct
from ..errors import WeightsError
from ..registry import info
from .checksums import sha256_of
from .files import load_into, read_config, save_weights
from .fitting import Part, fitting_parts, recognise
from .hub import CONFIG, FILE
from .pickles import open_pickle

log = logging.getLogger("naf_hub")


def convert(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    name: str | None = None,
    options: dict[str, Any] | None = None,
    *,
    keys: Sequence[str] | None = None,
    force: bool = False,
) -> Path:
    """Convert a ``torch.save`` checkpoint to a weights folder, after checking that it fits ``name``.

    The state dict may lie in a mapping within the file, and its names may all begin with something more than the
    model's (``module.``, ``model._orig_mod.``). Of several that fit, the first is taken, with a warning that says how
    to take another.

    Args:
        file: ``.pth``, ``.pt`` or ``.bin``; read with ``weights_only=True``.
        out: folder to write; must not exist unless ``force``.
        name: registered upsampler, backbone or restorer; default the only one that the tensors fit, see
            :func:`naf_hub.weights.fitting.recognise`.
        options: constructor options the weights need.
        keys: the keys, outermost first, under which the file hides its state dict; default those that the record
            of ``name`` states.
        force: replace an existing weights folder.

    Returns:
        The folder.

    Raises:
        WeightsError: unsafe, damaged, or not for this model; or, without ``name``, for none or for several.
        FileExistsError: ``out`` exists, or holds what is not of a weights folder.
    """
    source, target = Path(file), Path(out)
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; use --force to replace it")
    if target.exists():
        _require_weights_alone(target)
    if source.suffix == ".safetensors":
        raise WeightsError(f"{source} is safetensors already and loads as it is")
    data, options = open_pickle(source), dict(options or {})
    if name is None:
        record, parts = recognise(options, data, keys, source)
    else:
        record = info(name)
        parts = fitting_parts(record, options, data, keys, source)
    part = parts[0]
    _tell(source, part, parts[1:])
    state = {key: value.contiguous() for key, value in part.state.items()}
    load_into(construct(record, options), state, str(source))
    provenance = {"converted_from": source.name, "keys": list(part.keys), "sha256": sha256_of(source)}
    return save_weights(target, state, name=record.name, options=options, provenance=provenance)


def _require_weights_alone(folder: Path) -> None:
    """Require that a folder holds nothing that replacing it would lose."""
    names = {path.name for path in folder.iterdir()} - {".DS_Store"}
    if names and not read_config(folder / CONFIG):
        raise FileExistsError(f"{folder} is not a weights folder; --force will not delete it")
    if others := sorted(names - {CONFIG, FILE}):
        raise FileExistsError(
            f"{folder} holds other files, too ({', '.join(others[:3])}); --force will not delete them"
        )


def _tell(source: Path, taken: Part, others: Sequence[Part]) -> None:
    """Say what was chosen where there was a choice, and what of the same mapping stays behind."""
    if others:
        ways = ", or ".join(part.option for part in others)
        log.warning("%s: took %s; to take another: %s", source, " -> ".join(taken.keys) or "the whole", ways)
    if taken.beside:
        more = ", ..." if len(taken.beside) > 3 else ""
        log.warning(
            "%s: left out %d tensors that are not under %s: %s%s",
            source, len(taken.beside), taken.keys[-1], ", ".join(taken.beside[:3]), more,
        )  # fmt: skip

"""Weights as files: safetensors only, checked on load, written atomically, converted from pickles on request.

A set of weights is a folder (or a Hub repo) with ``model.safetensors``, ``config.json`` and a model card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ..atomic import atomic_folder
from ..errors import WeightsError
from ..records import Record, Weights
from ..version import __version__
from .archives import assemble
from .checksums import sha256_of, verify
from .fill import shards
from .hub import CONFIG, FILE, INDEX, fetch
from .pickles import PICKLES, read_pickle
from .web import web_cache, web_file

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1


def locate(record: Record, weights: str | os.PathLike[str] | None) -> tuple[dict[str, Any], Path | None]:
    """Where the weights are and which constructor options they were made with.

    Args:
        record: what is being loaded.
        weights: a named set of the record, a local folder or ``.safetensors`` file,
            ``hf://owner/repo[@revision]``, or ``None`` for random initialisation.

    Returns:
        (options, file); the file is ``None`` for random initialisation and for methods without weights.

    Raises:
        WeightsError: no such set or file, or it is damaged.
    """
    if weights is None or (weights == "default" and not record.learned):
        return {}, None
    text = os.fspath(weights)
    what = f"{record.name} weights {text!r}"
    if text in record.weights:
        named = record.weights[text]
        return dict(named.options), safetensors_of(named, what, record)
    path = fetch(Weights(text), what) if text.startswith("hf://") else _local(text, record)
    config = read_config(path.parent / CONFIG) if path.name == FILE else {}
    if config:
        if config.get("name", record.name) != record.name:
            raise WeightsError(f"{what}: these are weights of {config['name']!r}, not of {record.name!r}")
        verify(path, Weights(text, config.get("size"), config.get("sha256")), what)
    return dict(config.get("options", {})), path


def _local(text: str, record: Record) -> Path:
    path = Path(text).expanduser()
    if path.is_dir():
        path = path / (INDEX if (path / INDEX).is_file() else FILE)
    if not path.is_file():
        sets = ", ".join(record.weights) or "none"
        raise WeightsError(
            f"{record.name} has no weights {text!r} (named sets: {sets}) and there is no such file or folder; "
            "pass a named set, a path, hf://owner/repo, or weights=None for random initialisation"
        )
    if path.suffix.lower() in PICKLES:
        raise WeightsError(
            f"{path} is a pickle, which can run code; convert it first: naf-hub convert {path} -o DIR"
        )
    return path


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` beside a weights file; empty where there is none.

    Raises:
        WeightsError: not JSON, or written by a newer naf-hub.
    """
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(config, dict) or "naf_hub_version" not in config:
        return {}  # somebody else's config.json (timm, transformers)
    if config.get("format", 0) > FORMAT:
        raise WeightsError(
            f"{path}: written by naf-hub {config['naf_hub_version']}; upgrade: pip install -U naf-hub"
        )
    return config


def safetensors_of(weights: Weights, what: str, record: Record) -> Path:
    """The verified safetensors file of a named set; published pickles are converted once and cached."""
    several = bool(weights.parts or weights.also)
    if several:
        path = web_cache(weights) / "assembled.pth"
    elif weights.source.startswith(("https://", "http://")):
        path = web_file(weights)
    else:
        path = fetch(weights, what)
    if path.suffix.lower() not in PICKLES:
        return fetch(weights, what)
    folder = path.with_suffix("")
    converted = folder / FILE
    # Two processes that want one conversion: the second waits and finds it.
    with FileLock(str(folder.with_name(".converting.lock"))):
        config = read_config(folder / CONFIG)
        if config.get("provenance", {}).get("sha256") != weights.sha256 or not converted.is_file():
            state = assemble(weights, what) if several else read_pickle(fetch(weights, what))
            provenance = {"source": weights.source, "sha256": weights.sha256}
            save_weights(folder, state, name=record.name, options=weights.options, provenance=provenance)
            config = read_config(folder / CONFIG)
    verify(converted, Weights(weights.source, config.get("size"), config.get("sha256")), what)
    return converted


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of the shards an index names, on the CPU.

    Raises:
        WeightsError: damaged, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {key: value for file in shards(path) for key, value in load_file(file).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a valid safetensors file ({error}); fetch or convert it again"
        ) from error


def load_into(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load strictly; a model may bring its own ``load_weights(state)`` for foreign key layouts.

    Raises:
        WeightsError: names the first missing, unexpected or misshapen keys, or a key with NaN.
    """
    import torch

    for key, value in state.items():
        # A sum is NaN or infinite if any value is (or if it overflows, hence the second look).
        if value.is_floating_point() and not torch.isfinite(value.sum(dtype=torch.float32)):  # noqa: SIM102
            if not torch.isfinite(value.float()).all():
                raise WeightsError(f"{what}: {key} contains NaN or infinite values")
    own = getattr(model, "load_weights", None)
    if own is not None:
        own(state)
        return
    expected = model.state_dict()
    problems = [f"missing {k}" for k in expected if k not in state]
    problems += [f"unexpected {k}" for k in state if k not in expected]
    problems += [
        f"{k} has shape {tuple(state[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{what} do not fit this model: {'; '.join(problems[:3])}{more}; "
            "load them with the options they were made with"
        )
    model.load_state_dict(dict(state), strict=True)


def save_weights(
    folder: str | os.PathLike[str],
    model: nn.Module | Mapping[str, Tensor],
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> Path:
    """Write ``model.safetensors``, ``config.json`` and, given ``card``, ``README.md``, all or nothing.

    Args:
        folder: made or replaced.
        model: a module or its state dict.
        name: registered name the weights belong to.
        options: constructor options to load them with; must be plain JSON data.
        provenance: how they came to be; plain JSON data.
        card: text of the model card.

    Returns:
        The folder.
    """
    import torch
    from safetensors.torch import save_file

    state = model.state_dict() if isinstance(model, torch.nn.Module) else model
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory; each of them stands for itself in the file.
        start = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if start in storages else tensor
        storages.add(start)
    target = Path(folder)
    with atomic_folder(target) as temporary:
        file = temporary / FILE
        save_file(tensors, file, metadata={"format": "pt"})
        config = {
            "format": FORMAT,
            "naf_hub_version": __version__,
            "name": name,
            "options": dict(options or {}),
            "size": file.stat().st_size,
            "sha256": sha256_of(file),
            "provenance": dict(provenance or {}),
        }
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
    return target

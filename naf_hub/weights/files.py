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
from ..errors import WeightsChoiceError, WeightsError
from ..records import Record, Weights
from ..version import __version__
from .archives import assemble, published_files
from .checksums import LocalFile, sha256_of
from .config_json import FORMAT, read_config
from .fill import changed, check_plan, planned, unchanged_on_failure
from .hub import CONFIG, FILE, INDEX, fetch
from .json_objects import plain_data
from .lock import Differs, Lock, NotLocked, binding_lock
from .pickles import PICKLES, conversion
from .shards import headers, not_safetensors, shards
from .web import web_cache, web_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..interfaces import Step


def locate(record: Record, weights: str | os.PathLike[str] | None) -> tuple[dict[str, Any], Path | None]:
    """Where the weights are and which constructor options they were made with.

    Args:
        record: what is being loaded.
        weights: a named set of the record, a local folder or ``.safetensors`` file,
            ``hf://owner/repo[@revision]``, or ``None`` for random initialisation.

    Returns:
        (options, file); the file is ``None`` for random initialisation and for methods without weights.

    Raises:
        WeightsError: no such set or file, or it is damaged, or the lock file that ``NAF_HUB_LOCK`` names says otherwise
            (see :mod:`naf_hub.weights.lock`).
    """
    if weights is None or (weights == "default" and not record.learned):
        return {}, None
    text = os.fspath(weights)
    lock = binding_lock()
    try:
        return _found(record, text, lock)
    except (NotLocked, Differs) as error:
        assert lock is not None
        raise lock.advice(error, record.name, text) from error


def _found(record: Record, text: str, lock: Lock | None) -> tuple[dict[str, Any], Path]:
    what = f"{record.name} weights {text!r}"
    if text in record.weights:
        named = record.weights[text]
        return dict(named.options), safetensors_of(named, what, record, lock)
    on_hub = text.startswith("hf://")
    file = fetch(Weights(text), what, lock=lock) if on_hub else LocalFile(_local(text, record))
    if file.path.suffix.lower() in PICKLES:
        raise WeightsError(
            f"{what}: {file.path} is a pickle, which can run code; convert it first: "
            f"{conversion(file.path, record.name)}"
        )
    beside = file.path.with_name(CONFIG)
    config = read_config(beside) if file.path.name in (FILE, INDEX) else {}
    if not config:
        return {}, file.path
    if file.path.name != FILE:
        raise WeightsError(
            f"{what}: {beside} is that of {FILE}, and no {INDEX} stands for it; fetch {FILE} again"
        )
    if config["name"] != record.name:
        raise WeightsError(
            f"{what}: {beside}: these are weights of {config['name']!r}, not of {record.name!r}"
        )
    file.verify(config["size"], config["sha256"], what)
    return config["options"], file.path


def _local(text: str, record: Record) -> Path:
    path = Path(text).expanduser()
    if path.is_dir():
        only_index = (path / INDEX).is_file() and not (path / FILE).is_file()
        if not only_index and not (path / FILE).is_file():
            raise WeightsError(f"{record.name} weights {text!r}: {_without_weights(path)}")
        path = path / (INDEX if only_index else FILE)
    if not path.is_file():
        sets = ", ".join(record.weights) or "none"
        raise WeightsChoiceError(
            f"{record.name} has no weights {text!r} (named sets: {sets}) and there is no such file or folder",
            record.name,
        )
    return path


def _without_weights(folder: Path) -> str:
    """What a folder is that is none of weights, and what to give instead."""
    from ..image_files import RUN_MARKER
    from ..training.folder import WEIGHTS

    if not (folder / RUN_MARKER).is_file():
        return f"{folder} is a folder without {FILE}; give a folder that has it, or a .safetensors file"
    kept = [str(folder / name) for name in WEIGHTS if (folder / name / FILE).is_file()]
    if not kept:
        return f"{folder} is a training run that has kept no weights so far"
    choice = " or ".join(kept)
    return f"{folder} is a training run; give {choice}"


def safetensors_of(weights: Weights, what: str, record: Record, lock: Lock | None = None) -> Path:
    """The verified safetensors file of a named set; published pickles are converted once and cached.

    Raises:
        WeightsError: it cannot be had, or is not what the record or the lock says.
    """
    file: LocalFile | None = None
    if weights.parts or weights.also:
        path = web_cache(weights) / "assembled.pth"
    elif weights.source.startswith(("https://", "http://")):
        path = web_file(weights)
    else:
        file = fetch(weights, what, lock=lock)
        path = file.path
    if path.suffix.lower() not in PICKLES:
        return (file or fetch(weights, what, lock=lock)).path
    folder = path.with_suffix("")
    # Two processes that want one conversion: the second waits and finds it.
    with FileLock(str(folder.with_name(".converting.lock"))):
        converted = _converted(folder, weights, what, lock)
        if converted is None:
            files = [file] if file else [fetch(w, what, lock=lock) for w in published_files(weights)]
            provenance = {
                "source": weights.source,
                "sha256": weights.sha256,
                "files": {w.source: f.sha256 for w, f in zip(published_files(weights), files, strict=True)},
            }
            state = assemble(weights, files, what, record.state_dict_keys)
            save_weights(folder, state, name=record.name, options=weights.options, provenance=provenance)
            # Hashed as it was written.
            converted = LocalFile(folder / FILE, sha256=read_config(folder / CONFIG)["sha256"])
    config = read_config(folder / CONFIG)
    if not config:
        raise WeightsError(
            f"{what}: {folder} was converted by naf-hub and has no {CONFIG}; delete it and load again"
        )
    converted.verify(config["size"], config["sha256"], what)
    return converted.path


def _converted(folder: Path, weights: Weights, what: str, lock: Lock | None) -> LocalFile | None:
    """The conversion in the cache, unless it was made of other files than are recorded, or locked."""
    file = folder / FILE
    made_of = read_config(folder / CONFIG).get("provenance", {})
    if made_of.get("sha256") != weights.sha256 or not file.is_file():
        return None
    if lock:
        for published in published_files(weights):
            _, wanted = lock.entry(published.source, what).only()
            if made_of.get("files", {}).get(published.source) != wanted:
                return None
    return LocalFile(file)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of the shards an index names, on the CPU.

    Raises:
        WeightsError: damaged, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    headers(path)
    try:
        return {key: value for file in shards(path) for key, value in load_file(file).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise not_safetensors(path, error) from error


def plan_for(
    model: nn.Module, state: Mapping[str, Tensor], what: str
) -> tuple[Mapping[str, Step], Mapping[str, Tensor]]:
    """How a state dict fills a model: the plan, and the tensors that it names. May change the model's parts.

    Raises:
        WeightsError: names missing, unexpected and misshapen keys.
    """
    from ..interfaces import ForeignWeights

    plan: Mapping[str, Step] | None = {key: (key, None) for key in state}
    if isinstance(model, ForeignWeights):
        plan = planned(model, {key: tuple(value.shape) for key, value in state.items()}, what)
        if plan is None:
            state = model.convert_weights(state)
            plan = {key: (key, None) for key in state}
    check_plan(model, plan, {key: tuple(value.shape) for key, value in state.items()}, what)
    return plan, state


def load_into(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict, all of it or nothing; batch counters may be missing.

    A :class:`naf_hub.ForeignWeights` takes the layouts it knows; the state dict of any other model must have
    exactly its keys and shapes. Refused weights leave the model as it was.

    Raises:
        WeightsError: names the first missing, unexpected or misshapen keys, or a key with NaN.
    """
    import torch

    for key, value in state.items():
        # A sum is NaN or infinite if any value is (or if it overflows, hence the second look).
        if value.is_floating_point() and not torch.isfinite(value.sum(dtype=torch.float32)):  # noqa: SIM102
            if not torch.isfinite(value.float()).all():
                raise WeightsError(f"{what}: {key} contains NaN or infinite values")
    with unchanged_on_failure(model):
        plan, state = plan_for(model, state, what)
        expected = model.state_dict()
        values = {
            key: changed(key, state[name], change, tuple(expected[key].shape), what)
            for key, (name, change) in plan.items()
        }
        model.load_state_dict(values, strict=False)


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
            "provenance": plain_data(provenance or {}),
        }
        content = json.dumps(config, indent=2, allow_nan=False) + "\n"
        (temporary / CONFIG).write_text(content, encoding="utf-8")
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
    return target

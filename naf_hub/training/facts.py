"""What a run and its continuation must share beside the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn


def describe_files(files: Iterable[Path]) -> dict[str, Any]:
    """Number of the files, and a digest of their names in order."""
    names = [str(path) for path in files]
    return {"files": len(names), "sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}


def fingerprint(module: nn.Module) -> str:
    """Hex digest of every weight and buffer, and of the plain options that the submodules keep as attributes."""
    digest = hashlib.sha256()
    for name, inner in module.named_modules():
        options = {k: v for k, v in sorted(vars(inner).items()) if isinstance(v, (str, int, float, tuple))}
        options.pop("training", None)
        digest.update(f"{name}/{type(inner).__name__}/{options}".encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def compare_facts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for every fact that differs; numbers and truths are shown, digests and lists are not."""
    lines: list[str] = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        line = key
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            counts = [k for k in after if isinstance(after[k], int) and before.get(k) != after[k]]
            line += "".join(f" ({before.get(k)} -> {after[k]} {k})" for k in counts)
        elif isinstance(before, int) and isinstance(after, int):
            line += f" ({before} -> {after})"
        lines.append(line)
    return lines

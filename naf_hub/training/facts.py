"""What a run and its continuation must share beside the settings."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

# What describe_files says of the content of files; the rest is about their names.
CONTENT = ("bytes", "newest", "states")


def describe_files(files: Iterable[Path]) -> dict[str, Any]:
    """What tells one list of files from another without reading them: plain JSON data.

    Returns:
        ``files`` (number), ``sha256`` (of the names in order), ``bytes`` (of all), ``newest`` (name and time of the
        last change), ``states`` (digest of sizes and times in order). A file that is not there has no size.
    """
    names, states = hashlib.sha256(), hashlib.sha256()
    count = total = latest = 0
    newest = ""
    for path in files:
        name = os.fspath(path)
        names.update(f"{chr(10) if count else ''}{name}".encode(errors="surrogateescape"))
        count += 1
        try:
            found = os.stat(path)
        except OSError:
            states.update(b"-\n")
            continue
        states.update(b"%d %d\n" % (found.st_size, found.st_mtime_ns))
        total += found.st_size
        if found.st_mtime_ns >= latest:
            latest, newest = found.st_mtime_ns, name
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(latest // 10**9))
    return {
        "files": count,
        "sha256": names.hexdigest(),
        "bytes": total,
        "newest": f"{newest} of {when}" if newest else "",
        "states": states.hexdigest(),
    }


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
    """A line for every fact that differs; numbers and truths are shown, digests and lists are not.

    Files that only :func:`changed_files` tells of, and what earlier versions did not note of them, do not differ.
    """
    lines: list[str] = []
    for key in {**old, **new}:
        before, after = _without_content(old.get(key)), _without_content(new.get(key))
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


def changed_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for every list of files whose names are the same, but not the sizes or times."""
    lines: list[str] = []
    for key in old.keys() & new.keys():
        before, after = old[key], new[key]
        if not (_lists_files(before) and _lists_files(after)) or before["states"] == after["states"]:
            continue
        if before["sha256"] == after["sha256"]:
            same = before["bytes"] == after["bytes"]
            shown = [] if same else [f"{before['bytes']} -> {after['bytes']} bytes"]
            shown += [f"newest now {after['newest']}"] if before["newest"] != after["newest"] else []
            why = ", ".join(shown) or "sizes or times differ"
            lines.append(f"{key}: {after['files']} files of the same names, but not the same files ({why})")
    return lines


def _lists_files(fact: Any) -> bool:
    return isinstance(fact, Mapping) and {"sha256", *CONTENT} <= fact.keys()


def _without_content(fact: Any) -> Any:
    return {k: v for k, v in fact.items() if k not in CONTENT} if isinstance(fact, Mapping) else fact

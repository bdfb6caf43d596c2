"""Bringing weight files to this machine: Hugging Face Hub, plain https, or the folder of a package."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

from .atomic import atomic_file
from .errors import WeightsError
from .records import Weights

log = logging.getLogger("naf_hub")
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
FILE = "model.safetensors"
CONFIG = "config.json"
CHUNK = 1 << 20
CONNECT_SECONDS = 10.0
ATTEMPTS = 5


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, weights: Weights, what: str) -> None:
    """Compare a file with the recorded size and sha256.

    Raises:
        WeightsError: they differ.
    """
    size = path.stat().st_size
    if weights.size is not None and size != weights.size:
        raise WeightsError(
            f"{what}: {path} has {size} bytes, expected {weights.size}: truncated or replaced; "
            "delete it (or reinstall) and load again"
        )
    if weights.sha256 is not None and (found := sha256_of(path)) != weights.sha256:
        raise WeightsError(
            f"{what}: {path} has sha256 {found[:16]}..., expected {weights.sha256[:16]}...: damaged or "
            "replaced; delete it (or reinstall) and load again"
        )


def fetch(weights: Weights, what: str) -> Path:
    """The local weights file of ``weights``, downloaded and verified where needed.

    Returns:
        The path of the file; for Hub repos and packages ``config.json`` lies beside it where it exists.

    Raises:
        WeightsError: it cannot be had, or is not what the record says.
    """
    source = weights.source
    if source.startswith("package://"):
        path = _in_package(source, what)
    elif source.startswith("hf://"):
        path = _from_hub(source, what)
    elif source.startswith(("https://", "http://")):
        path = _from_web(weights, what)
    else:
        raise WeightsError(f"{what}: unknown kind of source {source!r}")
    verify(path, weights, what)
    return path


def _in_package(source: str, what: str) -> Path:
    package, _, folder = source.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"{what}: package {package!r} is not installed")
    path = Path(next(iter(spec.submodule_search_locations)), folder, FILE)
    if not path.is_file():
        raise WeightsError(f"{what}: {path} is missing; reinstall the distribution that ships it")
    return path


def parse_hub(source: str) -> tuple[str, str | None, str]:
    """(repo id, revision or None, file) of ``hf://owner/repo[@revision][/file]``.

    Raises:
        WeightsError: not of that form.
    """
    match = HUB.fullmatch(source)
    if match is None or ".." in source:
        raise WeightsError(f"{source!r} is not hf://owner/repo[@revision][/file]")
    return match["repo"], match["revision"], match["file"] or FILE


def _from_hub(source: str, what: str) -> Path:
    repo, revision, file = parse_hub(source)
    path = hub_file(repo, file, revision, what)
    if file.endswith(".index.json"):
        for shard in sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())):
            hub_file(repo, str(Path(file).with_name(shard)), revision, what)
    if file == FILE:
        # Not every publisher writes one; ours do, and it holds the options and the checksum.
        with contextlib.suppress(WeightsError):
            hub_file(repo, CONFIG, revision, what)
    return path


def hub_file(repo: str, file: str, revision: str | None, what: str) -> Path:
    """One file of a Hub repo, through huggingface_hub's cache.

    Raises:
        WeightsError: with what to do next (gated, offline, missing, unreachable).
    """
    import huggingface_hub
    import huggingface_hub.constants as constants
    from huggingface_hub import errors

    from . import __version__

    cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    have = isinstance(cached, str)
    if have and revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return Path(cached)
    where = f"{constants.ENDPOINT}/{repo}"
    again = f"hf download {repo} {file}" + (f" --revision {revision}" if revision else "")
    if not have and not constants.HF_HUB_OFFLINE:
        # The client itself retries an unreachable hub for some 23 s; nobody should wait that long for a typo
        # in a proxy setting.
        _require_reachable(constants.ENDPOINT, f"{what}: cannot reach {constants.ENDPOINT}", again)
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repo, file, revision=revision, library_name="naf-hub", library_version=__version__
            )
        )
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{what}: {repo} is gated; accept its terms at {where} and log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(f"{what}: no repository {where} (or it is private: `hf auth login`)") from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{what}: {where} has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        state = (
            "the Hub is offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the Hub does not answer"
        )
        raise WeightsError(
            f"{what}: {file} of {repo} is not cached and {state}; with a connection run: {again}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"{what}: {where} has no file {file}") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        text = str(error).strip().splitlines()
        raise WeightsError(
            f"{what}: download of {file} from {where} failed: {text[0] if text else error!r}"
        ) from error


def _require_reachable(endpoint: str, message: str, again: str) -> None:
    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=CONNECT_SECONDS
        ).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(f"{message} ({reason}); check the connection, then run: {again}") from error


def web_cache(weights: Weights) -> Path:
    """Where a file from outside the Hub is kept: one folder per address, in huggingface_hub's asset cache."""
    from huggingface_hub import cached_assets_path

    address = "\n".join((weights.source, *weights.parts, *map(" ".join, sorted(weights.also.items()))))
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return Path(cached_assets_path("naf-hub", namespace="weights", subfolder=key))


def _from_web(weights: Weights, what: str) -> Path:
    from filelock import FileLock

    folder = web_cache(weights)
    target = folder / (Path(urlparse(weights.source).path).name or "weights")
    # Two processes that want one file: the second waits and finds it.
    with FileLock(str(folder / ".lock")):
        if not target.is_file():
            _download(weights, target, what)
        _compare_with_first_use(weights, target, what)
    return target


def _compare_with_first_use(weights: Weights, target: Path, what: str) -> None:
    """Where no checksum is published, what came first is recorded, said, and compared with from then on."""
    if weights.sha256 is not None:
        return
    note = target.with_name(target.name + ".sha256")
    if note.is_file():
        size, _, digest = note.read_text(encoding="ascii").partition(" ")
        verify(target, Weights(weights.source, int(size), digest.strip()), what)
        return
    digest = sha256_of(target)
    with atomic_file(note) as temporary:
        temporary.write_text(f"{target.stat().st_size} {digest}\n", encoding="ascii")
    log.warning(
        "%s: no checksum is published for %s; recorded sha256 %s on first use", what, weights.source, digest
    )


def _download(weights: Weights, target: Path, what: str) -> None:
    import huggingface_hub.constants as constants

    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"{what}: {weights.source} is not cached and HF_HUB_OFFLINE is set; load it once with a connection"
        )
    part = target.with_name(target.name + ".part")
    reason: object = "no attempt"
    for _ in range(ATTEMPTS):
        try:
            if _resume(weights.source, part, weights.size):
                break
            reason = "the connection was closed early"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code < 500 and error.code not in (408, 429):
                raise WeightsError(f"{what}: {weights.source} answered {reason}") from error
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            if not part.exists() or part.stat().st_size == 0:
                break  # nothing came at all: no use to insist
    else:
        raise WeightsError(f"{what}: download of {weights.source} failed ({reason}); load again to resume")
    if not part.exists() or part.stat().st_size == 0:
        raise WeightsError(
            f"{what}: cannot fetch {weights.source} ({reason}); check the connection and try again"
        )
    try:
        verify(part, weights, what)
    except WeightsError:
        part.unlink()
        raise
    os.replace(part, target)


def _resume(address: str, part: Path, size: int | None) -> bool:
    """Fetch what is missing of ``part``; whether it is complete now."""
    from huggingface_hub.utils import tqdm  # silent under HF_HUB_DISABLE_PROGRESS_BARS

    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return True
    request = urllib.request.Request(address, headers={"User-Agent": "naf-hub"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:
        if answer.status != 206:
            have = 0  # the server ignores Range and sends all of it again
        length = answer.headers.get("Content-Length")
        total = size if size is not None else (have + int(length) if length else None)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, leave=False) as bar,
        ):
            while block := answer.read(CHUNK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            return total is None or file.tell() >= total

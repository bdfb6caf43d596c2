"""Bringing weight files to this machine: Hugging Face Hub, plain addresses, or the folder of a package."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from pathlib import Path

from ..errors import WeightsError
from ..records import HUB, Weights
from .checksums import sha256_of, verify
from .web import from_web, require_reachable

FILE = "model.safetensors"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SHA256 = re.compile(r"[0-9a-f]{64}")


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
        path = from_web(weights, what)
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
    if file == FILE and _sharded_only(repo, revision):
        file = INDEX
    try:
        path = hub_file(repo, file, revision, what)
    except WeightsError as error:
        # Large models are published in shards, and some have been published again so.
        if file != FILE or not _absent(error):
            raise
        try:
            file, path = INDEX, hub_file(repo, INDEX, revision, what)
        except WeightsError as no_index:
            raise (error if _absent(no_index) else no_index) from error.__cause__
    if file.endswith(".index.json"):
        for shard in sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())):
            hub_file(repo, str(Path(file).with_name(shard)), revision, what)
    if file == FILE:
        # Not every publisher writes one; ours do, and it holds the options and the checksum.
        with contextlib.suppress(WeightsError):
            hub_file(repo, CONFIG, revision, what)
    return path


def _sharded_only(repo: str, revision: str | None) -> bool:
    """Whether the cache, which must do when offline, holds the repository's weights as shards and not whole."""
    from huggingface_hub import try_to_load_from_cache

    whole, index = (try_to_load_from_cache(repo, file, revision=revision) for file in (FILE, INDEX))
    return isinstance(index, str) and not isinstance(whole, str)


def _absent(error: WeightsError) -> bool:
    """Whether the Hub said that the repository has no such file."""
    from huggingface_hub import errors

    cause = error.__cause__
    return isinstance(cause, errors.EntryNotFoundError) and not isinstance(
        cause, errors.LocalEntryNotFoundError
    )


def hub_file(repo: str, file: str, revision: str | None, what: str) -> Path:
    """One file of a Hub repo, through huggingface_hub's cache.

    Raises:
        WeightsError: with what to do next (gated, offline, missing, unreachable).
    """
    import huggingface_hub
    import huggingface_hub.constants as constants
    from huggingface_hub import errors

    from ..version import __version__

    cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    have = isinstance(cached, str)
    if have and revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return Path(cached)
    where = f"{constants.ENDPOINT}/{repo}"
    again = f"hf download {repo} {file}" + (f" --revision {revision}" if revision else "")
    if not have and not constants.HF_HUB_OFFLINE:
        # The client itself retries an unreachable hub for some 23 s; nobody should wait that long for a typo
        # in a proxy setting.
        require_reachable(constants.ENDPOINT, f"{what}: cannot reach {constants.ENDPOINT}", again)
    try:
        path = Path(
            huggingface_hub.hf_hub_download(
                repo, file, revision=revision, library_name="naf-hub", library_version=__version__
            )
        )
        if cached != str(path):
            _compare_with_etag(path, what)
        return path
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


def _compare_with_etag(path: Path, what: str) -> None:
    """The Hub names large files by their sha256, and the client its blobs by that name, but compares sizes only."""
    if not path.is_symlink():
        return  # a system without links keeps plain copies, under no such name
    blob = path.parent / path.readlink()
    if SHA256.fullmatch(blob.name) and (found := sha256_of(path)) != blob.name:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise WeightsError(
            f"{what}: {path.name} arrived with sha256 {found[:16]}..., the Hub announced {blob.name[:16]}...: "
            "damaged on the way; load again"
        )

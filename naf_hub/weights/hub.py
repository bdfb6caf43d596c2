"""Bringing weight files to this machine: Hugging Face Hub, plain addresses, or the folder of a package."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import re
from pathlib import Path, PurePosixPath

from ..errors import WeightsError
from ..records import HUB, Weights
from . import lock as locks
from .checksums import LocalFile, Mismatch
from .config_json import SHA256
from .shards import shard_names
from .web import ATTEMPTS, from_web, probe

FILE = "model.safetensors"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
# The most characters of owner/repo on the Hub.
LONGEST_NAME = 96
# What the client's transport, another library in each of its major versions, calls a connection that was reset or cut
# short, after which a new call goes on where the file ended; after other cuts the client resumes itself.
RESET = frozenset({"ReadError", "RemoteProtocolError", "ChunkedEncodingError"})


class Absent(WeightsError):
    """The Hub says that the repository has no such file."""


def fetch(weights: Weights, what: str, *, lock: locks.Lock | None = None) -> LocalFile:
    """The local weights file of ``weights``, downloaded and verified where needed.

    Args:
        weights: where the file is and what is recorded of it.
        what: the weights, in words, for messages.
        lock: what the file must be, whatever the record says (see :mod:`naf_hub.weights.lock`).

    Returns:
        The file; for Hub repos and packages ``config.json`` lies beside it where it exists.

    Raises:
        WeightsError: it cannot be had, or is not what the record or the lock says.
    """
    source = weights.source
    entry = lock.entry(source, what) if lock else None
    try:
        if source.startswith("package://"):
            file = _in_package(source, what)
        elif source.startswith("hf://"):
            file = _from_hub(source, what, entry.commit if entry else None)
        elif source.startswith(("https://", "http://")):
            # The lock stands for the checksum that the publisher may not state, before anything is kept.
            size, digest = entry.only() if entry else (weights.size, weights.sha256)
            file = from_web(dataclasses.replace(weights, size=size, sha256=digest), what)
        else:
            raise WeightsError(f"{what}: unknown kind of source {source!r}")
        file.verify(weights.size, weights.sha256, what)
        if entry:
            entry.verify(file, what)
    except Mismatch as error:
        raise (locks.Differs if entry else WeightsError)(str(error)) from error
    except Absent as error:
        raise WeightsError(str(error)) from error.__cause__
    return file


def _in_package(source: str, what: str) -> LocalFile:
    package, _, folder = source.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"{what}: package {package!r} is not installed")
    path = Path(next(iter(spec.submodule_search_locations)), folder, FILE)
    if not path.is_file():
        raise WeightsError(f"{what}: {path} is missing; reinstall the distribution that ships it")
    return LocalFile(path)


def parse_hub(source: str) -> tuple[str, str | None, str]:
    """(repo id, revision or None, file) of ``hf://owner/repo[@revision][/file]``.

    Raises:
        WeightsError: not of that form.
    """
    from huggingface_hub.utils import validate_repo_id

    match = HUB.fullmatch(source)
    if match is None or ".." in source or not source.isprintable() or re.search(r"\\|//|/$", source[5:]):
        raise WeightsError(f"{source!r} is not hf://owner/repo[@revision][/file]")
    if len(match["repo"]) > LONGEST_NAME:  # clients before 2.0 ask the Hub for it
        raise WeightsError(
            f"{source!r} is not hf://owner/repo[@revision][/file] (over {LONGEST_NAME} characters)"
        )
    try:
        validate_repo_id(match["repo"])
    except ValueError as error:
        line = " ".join(str(error).split())
        raise WeightsError(f"{source!r} is not hf://owner/repo[@revision][/file] ({line})") from error
    return match["repo"], match["revision"], match["file"] or FILE


def _from_hub(source: str, what: str, commit: str | None = None) -> LocalFile:
    """A file of a Hub repo with what belongs to it, all of one commit (``commit`` where it is given)."""
    import huggingface_hub.constants as constants

    repo, revision, name = parse_hub(source)
    revision = commit or revision
    # Large models are published in shards, and some have been published again so.
    names = [name, *([INDEX] if name == FILE else [])]
    if len(names) > 1 and _sharded_only(repo, revision):
        names.reverse()
    try:
        file = hub_file(repo, names[0], revision, what)
    except Absent as error:
        if len(names) == 1:
            raise
        try:
            file = hub_file(repo, names[1], revision, what)
        except Absent as neither:
            raise (error if names[0] == FILE else neither) from error.__cause__
    # From here on by commit: main may move on between two files, and a commit that is cached is not asked for.
    if file.name.endswith(".index.json"):
        for shard in sorted(set(shard_names(file.path).values())):
            # By "/" on every system: these names go into lock files.
            name = PurePosixPath(file.name).with_name(shard).as_posix()
            file.beside.append(hub_file(repo, name, file.commit, what))
    if file.name == FILE:
        # Not every publisher writes one; ours do, and it holds the options and the checksum. Offline nobody can say.
        with contextlib.suppress(WeightsError if constants.HF_HUB_OFFLINE else Absent):
            file.beside.append(hub_file(repo, CONFIG, file.commit, what))
    return file


def _sharded_only(repo: str, revision: str | None) -> bool:
    """Whether the cache, which must do when offline, holds the repository's weights as shards and not whole."""
    from huggingface_hub import try_to_load_from_cache

    whole, index = (try_to_load_from_cache(repo, file, revision=revision) for file in (FILE, INDEX))
    return isinstance(index, str) and not isinstance(whole, str)


def hub_file(repo: str, file: str, revision: str | None, what: str) -> LocalFile:
    """One file of a Hub repo, through huggingface_hub's cache.

    Raises:
        Absent: the repository has no such file.
        WeightsError: with what to do next (gated, offline, missing, unreachable).
    """
    import huggingface_hub
    import huggingface_hub.constants as constants
    from huggingface_hub import errors

    cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    have = isinstance(cached, str)
    where = f"{constants.ENDPOINT}/{repo}"
    if revision and locks.COMMIT.fullmatch(revision):
        if isinstance(cached, str):
            return LocalFile(Path(cached), name=file, commit=revision)
        if cached is not None:  # the Hub said before that this commit has no such file
            raise Absent(f"{what}: {where} has no file {file}")
    again = f"hf download {repo} {file}" + (f" --revision {revision}" if revision else "")
    if not have and not constants.HF_HUB_OFFLINE:
        # The client itself retries an unreachable hub for some 23 s; nobody should wait that long for a typo
        # in a proxy setting.
        probe(constants.ENDPOINT, f"{what}: cannot reach {constants.ENDPOINT}", again)
    try:
        path = _transferred(repo, file, revision)
        # Snapshots are folders named by their commit.
        commit = path.parents[len(Path(file).parts) - 1].name
        found = LocalFile(path, name=file, commit=commit)
        if cached != str(path):
            _compare_with_etag(found, what)
        return found
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
        raise Absent(f"{what}: {where} has no file {file}") from error
    except WeightsError:
        raise
    except Exception as error:  # of the client, and of whatever its version has for a transport
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"{what}: download of {file} from {where} failed: {text[0]}") from error


def _transferred(repo: str, file: str, revision: str | None) -> Path:
    import huggingface_hub

    from ..version import __version__

    for left in reversed(range(ATTEMPTS)):
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    repo, file, revision=revision, library_name="naf-hub", library_version=__version__
                )
            )
        except Exception as error:
            if not left or type(error).__name__ not in RESET:
                raise
    raise AssertionError("ends above")


def _compare_with_etag(file: LocalFile, what: str) -> None:
    """The Hub names large files by their sha256, and the client its blobs by that name, but compares sizes only."""
    path = file.path
    if not path.is_symlink():
        return  # a system without links keeps plain copies, under no such name
    blob = path.parent / path.readlink()
    if SHA256.fullmatch(blob.name) and file.sha256 != blob.name:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise WeightsError(
            f"{what}: {path.name} arrived with sha256 {file.sha256[:16]}..., the Hub announced "
            f"{blob.name[:16]}...: damaged on the way; load again"
        )

"""Files from plain addresses outside the Hugging Face Hub: one downloader, with resume, into its asset cache."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shlex
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

from ..atomic import atomic_file
from ..errors import WeightsError
from ..records import Weights
from .checksums import CHUNK, LocalFile

log = logging.getLogger("naf_hub")
CONNECT_SECONDS = 10.0
ATTEMPTS = 5
# For how long a server that answered counts as reachable: the files of one load are asked for without a probe each.
PROBE_SECONDS = 60.0
_answered: dict[str, float] = {}


def probe(endpoint: str, message: str, again: str | None = None) -> None:
    """As :func:`require_reachable`, but asks a server that answered within the last ``PROBE_SECONDS`` no more."""
    if time.monotonic() - _answered.get(endpoint, -PROBE_SECONDS) >= PROBE_SECONDS:
        require_reachable(endpoint, message, again)
        _answered[endpoint] = time.monotonic()


def require_reachable(endpoint: str, message: str, again: str | None = None) -> None:
    """Raise unless the server answers, with whatever status, within ``CONNECT_SECONDS``.

    In a thread, because each address of a host gets the whole time limit of a socket.
    """
    outcome: list[object] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
            outcome.append(None)
        except urllib.error.HTTPError:
            outcome.append(None)
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    reason = outcome[0] if outcome else f"no answer in {CONNECT_SECONDS:g} s"
    if reason is not None:
        then = f"then run: {again}" if again else "then try again"
        raise WeightsError(f"{message} ({reason}); check the connection, {then}")


def web_cache(weights: Weights) -> Path:
    """Where a file from outside the Hub is kept: one folder per address, in huggingface_hub's asset cache."""
    from huggingface_hub import cached_assets_path

    address = "\n".join((weights.source, *weights.parts, *map(" ".join, sorted(weights.also.items()))))
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return Path(cached_assets_path("naf-hub", namespace="weights", subfolder=key))


def web_file(weights: Weights) -> Path:
    """Where ``fetch`` puts the file of a plain address."""
    return web_cache(weights) / (Path(urlparse(weights.source).path).name or "weights")


def from_web(weights: Weights, what: str) -> LocalFile:
    """The file of a plain address, downloaded where it is not in the cache.

    Raises:
        WeightsError: it cannot be had, or is not what the record, or its first use here, says.
    """
    from filelock import FileLock

    target = web_file(weights)
    # Two processes that want one file: the second waits and finds it.
    with FileLock(str(target.with_name(".lock"))):
        file = LocalFile(target) if target.is_file() else _download(weights, target, what)
        _compare_with_first_use(weights, file, what)
    return file


def _compare_with_first_use(weights: Weights, file: LocalFile, what: str) -> None:
    """Where no checksum is published, what came first is recorded, said, and compared with from then on."""
    if weights.sha256 is not None:
        return
    note = file.path.with_name(file.name + ".sha256")
    if note.is_file():
        size, _, digest = note.read_text(encoding="ascii").partition(" ")
        file.verify(int(size), digest.strip(), what)
        return
    with atomic_file(note) as temporary:
        temporary.write_text(f"{file.size} {file.sha256}\n", encoding="ascii")
    log.warning(
        "%s: no checksum is published for %s; recorded sha256 %s on first use",
        what,
        weights.source,
        file.sha256,
    )


def _download(weights: Weights, target: Path, what: str) -> LocalFile:
    import huggingface_hub.constants as constants

    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"{what}: {weights.source} is not cached and HF_HUB_OFFLINE is set; with a connection load it once, or "
            f"run: curl -L -o {shlex.quote(str(target))} {shlex.quote(weights.source)}"
        )
    address = urlparse(weights.source)
    probe(f"{address.scheme}://{address.netloc}", f"{what}: cannot fetch {weights.source}: no connection")
    part = target.with_name(target.name + ".part")
    if weights.sha256 is None:
        part.unlink(missing_ok=True)  # nothing would tell if its rest were that of another version
    reason = "the answer was empty"
    tags: dict[str, str] = {}
    for _ in range(ATTEMPTS):
        try:
            if _resume(weights.source, part, weights.size, tags):
                break
            reason = "the connection was closed early"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code == 416:  # more is here than there
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise WeightsError(f"{what}: {weights.source} answered {reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = _words(error)
            unreachable = isinstance(error, (urllib.error.URLError, TimeoutError))
            if unreachable and (not part.exists() or part.stat().st_size == 0):
                break  # nothing came at all: no use to insist
    else:
        raise WeightsError(f"{what}: download of {weights.source} failed ({reason}); load again to resume")
    if not part.exists() or part.stat().st_size == 0:
        raise WeightsError(
            f"{what}: cannot fetch {weights.source} ({reason}); check the connection and try again"
        )
    arrived = LocalFile(part)
    try:
        arrived.verify(weights.size, weights.sha256, what)
    except WeightsError:
        part.unlink()
        raise
    os.replace(part, target)
    return LocalFile(target, sha256=weights.sha256)  # which it was just compared with


def _words(error: Exception) -> str:
    """Why a transfer failed, in one line, whatever the server sent."""
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed early"
    text = str(getattr(error, "reason", error)) or type(error).__name__
    return " ".join(ascii(text).strip("'\"").split())[:200]


def _resume(address: str, part: Path, size: int | None, tags: dict[str, str]) -> bool:
    """Fetch what is missing of ``part``; whether it is complete now.

    ``tags`` keeps which version the part is of: the rest of another one is not wanted.
    """
    from huggingface_hub.utils import tqdm  # silent under HF_HUB_DISABLE_PROGRESS_BARS

    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return True
    request = urllib.request.Request(address, headers={"User-Agent": "naf-hub"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tags:
            request.add_header("If-Range", next(iter(tags.values())))
    with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:
        if answer.status != 206:
            have = 0  # the server ignores Range, or has another version by now, and sends all of it
        elif not answer.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            return False  # some other part: all of it is asked for next
        tags.clear()
        # Weak tags name no bytes, and may not be sent as a condition of a range.
        tags |= {k: v for k in ("ETag", "Last-Modified") if (v := answer.headers.get(k)) and v[:2] != "W/"}
        # What the server has counts, not what is expected: another file than that is complete, too, and told as such.
        total = size if answer.length is None else have + answer.length
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, leave=False) as bar,
        ):
            try:
                # By what arrives, so that a cut loses nothing. What is longer than it should be is the wrong file, and
                # may have no end.
                while (size is None or file.tell() <= size) and (block := answer.read1(CHUNK)):
                    file.write(block)
                    bar.update(len(block))
            finally:
                file.flush()
                os.fsync(file.fileno())
            longer = size is not None and file.tell() > size
            # Chunks say themselves where they end.
            return answer.chunked or total is None or longer or file.tell() >= total

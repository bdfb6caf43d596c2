"""Trained weights to the Hugging Face Hub: checked first, committed in one piece."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import NafHubError, WeightsError
from ..records import Record
from ..version import __version__
from ..weights.checksums import sha256_of
from ..weights.hub import CONFIG, FILE
from .cards import complete_card, local_paths, missing_facts
from .publishable import (
    check_branch,
    check_license,
    check_links,
    check_repo,
    check_weights,
    weights_folder,
)
from .upload import CARD, PublishError, connect, explain, upload

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"})


def publish(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    revision: str = "main",
    message: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    token: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Upload weights, ``config.json`` and completed model card as one commit.

    The folder is checked before anything is sent, and never changed: the completed card exists on the Hub only.

    Args:
        folder: of a training run (its ``weights/`` is taken) or of weights.
        repo: ``owner/name``; made if it does not exist, updated if it does.
        private: make it private; an existing public repository is refused, not hidden.
        revision: branch to commit to; made from ``main`` if it does not exist.
        message: of the commit.
        license: identifier of the Hub, such as ``"mit"``; default the card's own, else ``"apache-2.0"``.
        datasets: Hub ids of the training data, for the card.
        token: default ``HF_TOKEN`` or that of ``hf auth login``.
        dry_run: send nothing.

    Returns:
        Plain data: ``repo``, ``revision``, ``address`` to load from, ``files`` (path, size in bytes, sha256),
        ``left_out``, ``warnings``, ``card`` and, unless ``dry_run``, ``commit``, ``pinned`` and ``url``.

    Raises:
        ValueError: no repository, branch or licence can be called that.
        WeightsError: the folder does not hold loadable weights of something registered.
        PublishError: the Hub refused or cannot be reached.
    """
    check_repo(repo)
    check_branch(revision)
    license = license and check_license(license)
    source = weights_folder(Path(folder))
    check_links(source)
    config, record = check_weights(source)
    address = f"hf://{repo}" + ("" if revision == "main" else f"@{revision}")
    card = _card(source, config, record, address, license, datasets)
    chosen, left_out = _choose(source)
    files = [{"path": p.name, "size": p.stat().st_size, "sha256": sha256_of(p)} for p in chosen]
    data = card.encode()
    files.append({"path": CARD, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    report: dict[str, Any] = {
        "repo": repo,
        "revision": revision,
        "private": private,
        "address": address,
        "dry_run": dry_run,
        "files": files,
        "left_out": left_out,
        "warnings": _doubts(card, config),
        "card": card,
    }
    if dry_run:
        return report
    api = connect(token, f"naf-hub publish {folder} {repo}")
    message = message or f"{record.name} weights {config['sha256'][:12]}, published by naf-hub {__version__}"
    try:
        with warnings.catch_warnings(record=True) as remarks:  # what the Hub says of the card
            warnings.simplefilter("always")
            commit = upload(
                api, repo, source, files, card, private=private, revision=revision, message=message
            )
    except NafHubError:
        raise
    except Exception as error:  # HTTP, transport and upload libraries, each with errors of its own
        raise PublishError(f"{repo}: {explain(error, api.endpoint, repo, revision)}") from error
    report["warnings"] += [" ".join(str(r.message).split()) for r in remarks if r.category is UserWarning]
    return {
        **report,
        "commit": commit,
        "pinned": f"hf://{repo}@{commit}",
        "url": f"{api.endpoint}/{repo}/tree/{revision}",
    }


def _card(
    folder: Path,
    config: dict[str, Any],
    record: Record,
    address: str,
    license: str | None,
    datasets: Sequence[str],
) -> str:
    path = folder / CARD
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return complete_card(text, config, record, address, license=license, datasets=datasets)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _choose(folder: Path) -> tuple[list[Path], list[str]]:
    """What goes up besides the card, and what does not: nobody wants to find stray files of theirs on the Hub."""
    paths = sorted(folder.iterdir())
    wanted = [
        path
        for path in paths
        if path.is_file()
        and (
            path.name in (CONFIG, FILE) or path.name.startswith("LICENSE") or path.suffix.lower() in PICTURES
        )
    ]
    return wanted, [path.name for path in paths if path not in wanted and path.name != CARD]


def _doubts(card: str, config: dict[str, Any]) -> list[str]:
    doubts = []
    if lacks := missing_facts(card):
        doubts.append(f"the card says nothing of {', '.join(lacks)}; add it to {CARD} and publish again")
    if paths := local_paths(config.get("provenance")):
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        doubts.append(f"{CONFIG} and perhaps the card name local paths: {', '.join(paths[:3])}{more}")
    return doubts

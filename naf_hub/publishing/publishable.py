"""What may be published: names the Hub takes, and weights that load as any user would load them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import UnknownNameError, WeightsError
from ..kinds import kind_of
from ..records import Record
from ..registry import registry
from ..weights.config_json import read_config
from ..weights.hub import CONFIG, FILE, HUB
from ..weights.pickles import PICKLES, conversion

BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LICENSES = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def check_repo(repo: str) -> str:
    """``owner/name``, unchanged.

    Raises:
        ValueError: the Hub has no such names.
    """
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1 or not HUB.fullmatch(f"hf://{repo}"):
        raise ValueError(f"{repo!r} is not owner/name (letters, digits, '-', '_' and '.')")
    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise ValueError(f"{repo!r} is no name of a repository: {' '.join(str(error).split())}") from error
    return repo


def check_branch(revision: str) -> str:
    """The branch, unchanged.

    Raises:
        ValueError: not a branch that ``hf://owner/name@branch`` could name.
    """
    if not BRANCH.fullmatch(revision) or ".." in revision or revision.endswith((".", ".lock")):
        raise ValueError(
            f"{revision!r} is no name of a branch: use letters, digits, '-', '_' and '.', no '/'"
        )
    return revision


def check_license(license: str) -> str:
    """The identifier in lower case, as the Hub writes it.

    Raises:
        ValueError: not of that form.
    """
    if not LICENSES.fullmatch(license.lower()):
        raise ValueError(
            f"{license!r} is no licence identifier such as apache-2.0, mit, cc-by-nc-4.0 or other"
        )
    return license.lower()


def weights_folder(folder: Path) -> Path:
    """The folder that holds ``config.json``: itself, or ``weights/`` of a run.

    Raises:
        WeightsError: neither.
    """
    for candidate in (folder, folder / "weights"):
        if (candidate / CONFIG).is_file() or (candidate / FILE).is_file():
            return candidate
    if (folder / "checkpoints").is_dir():
        raise WeightsError(
            f"{folder}: the run has no weights/ yet; finish it: the command that began it, with --resume"
        )
    if pickles := pickles_in(folder):
        raise WeightsError(
            f"{pickles[0]} is a pickle, and only safetensors are published; convert it first: {conversion(pickles[0])}"
        )
    raise WeightsError(f"{folder}: neither a run nor a weights folder (no {FILE} and {CONFIG} in it)")


def check_links(folder: Path) -> None:
    """Require that no link in a folder leads out of it, where it would publish what nobody meant to.

    Links of a snapshot in huggingface_hub's cache lead to the blobs beside it, and are what they seem.

    Raises:
        WeightsError: names the link and where it leads.
    """
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    for path in sorted(folder.iterdir()):
        target = path.resolve()
        if path.is_symlink() and not (target.is_relative_to(home) or target.parent == blobs):
            raise WeightsError(
                f"{path} is a link that leads to {target}, out of the folder; put the file itself there"
            )


def check_weights(folder: Path) -> tuple[dict[str, Any], Record]:
    """Load the weights as any user would, with all checks.

    Returns:
        (content of ``config.json``, record of what they are weights of).

    Raises:
        WeightsError: pickles, missing or damaged files, NaN, or not weights of something registered that has any.
    """
    if pickles := pickles_in(folder):
        raise WeightsError(f"{pickles[0]} is a pickle, and only safetensors are published; remove it")
    if not (folder / FILE).is_file():
        raise WeightsError(f"{folder}: there is no {FILE}")
    config = read_config(folder / CONFIG)
    if not config:
        raise WeightsError(
            f"{folder}: {CONFIG} is missing or not naf-hub's; `naf-hub train` and `naf-hub convert` write it"
        )
    try:
        record = registry().find(config["name"], Record)
    except UnknownNameError as error:
        raise WeightsError(f"{folder / CONFIG}: {error}") from error
    kind = kind_of(record)
    if kind.usage is None or not record.learned:
        raise WeightsError(f"{folder / CONFIG}: {record.name!r} is a {kind.word} without weights")
    kind.load(record.name, weights=folder.absolute())
    return config, record


def pickles_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICKLES)

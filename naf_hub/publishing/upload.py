"""Uploading to the Hugging Face Hub: one commit, confirmed afterwards, every refusal in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NafHubError, WeightsError
from ..version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"


class PublishError(NafHubError, RuntimeError):
    """The Hub refused, or could not be reached; the repository holds all of the commit or nothing of it."""


def connect(token: str | None, again: str) -> HfApi:
    """A client with a token, of a hub that answers.

    Args:
        token: default ``HF_TOKEN`` or that of ``hf auth login``.
        again: the command to run once the connection is back.

    Raises:
        PublishError: offline, no token, or no answer within ten seconds.
    """
    import huggingface_hub
    from huggingface_hub import constants

    from ..weights.web import require_reachable

    if constants.HF_HUB_OFFLINE:
        raise PublishError("HF_HUB_OFFLINE is set; unset it to publish")
    token = token or huggingface_hub.get_token()
    if not token:
        raise PublishError(
            "no access token: log in with `hf auth login`, or set HF_TOKEN, or pass --token; it needs write "
            f"permission (make one at {constants.ENDPOINT}/settings/tokens)"
        )
    # The client itself would wait for minutes for a hub that does not answer.
    try:
        require_reachable(constants.ENDPOINT, f"cannot reach {constants.ENDPOINT}", again)
    except WeightsError as error:
        raise PublishError(str(error)) from error
    return huggingface_hub.HfApi(
        constants.ENDPOINT, token=token, library_name="naf-hub", library_version=__version__
    )


def upload(
    api: HfApi,
    repo: str,
    folder: Path,
    files: Sequence[Mapping[str, Any]],
    card: str,
    *,
    private: bool,
    revision: str,
    message: str,
) -> str:
    """Make repository and branch if need be, commit everything at once, and see that it is there.

    Args:
        api: see :func:`connect`.
        repo: ``owner/name``.
        folder: where the files are.
        files: ``path``, ``size`` and ``sha256`` of each; the card's text is ``card``, not that in the folder.
        private, revision, message: as for :func:`naf_hub.publish.publish`.

    Returns:
        The sha of the commit.

    Raises:
        PublishError: a public repository where a private one is wanted, or files are missing afterwards.
        Exception: those of huggingface_hub; :func:`explain` tells them.
    """
    from huggingface_hub import CommitOperationAdd

    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.model_info(repo).private:
        raise PublishError(
            f"{repo} exists and is public; make it private at {api.endpoint}/{repo}/settings, "
            "or publish without --private"
        )
    if revision != "main":
        api.create_branch(repo, branch=revision, exist_ok=True)
    operations = [
        CommitOperationAdd(file["path"], card.encode() if file["path"] == CARD else folder / file["path"])
        for file in files
    ]

    def commit_all() -> str:
        return api.create_commit(repo, operations, commit_message=message, revision=revision).oid

    try:
        commit = commit_all()
    except RuntimeError as error:
        # So clients before 2.0 tell of a file that could not be sent, before anything is committed. They try again
        # where no connection comes about, but not where one breaks.
        if error.__cause__ is None or getattr(error.__cause__, "response", None) is not None:
            raise
        commit = commit_all()
    siblings = api.model_info(repo, revision=commit, files_metadata=True).siblings or []
    there = {sibling.rfilename: sibling for sibling in siblings}
    for file in files:
        found = there.get(file["path"])
        if found is None:  # a .gitignore in the repository makes the client drop files in silence
            raise PublishError(
                f"{repo}: commit {commit[:12]} lacks {file['path']}; does a .gitignore there exclude it?"
            )
        if found.size != file["size"] or (found.lfs and found.lfs.sha256 != file["sha256"]):
            raise PublishError(f"{repo}: {file['path']} of commit {commit[:12]} is not what was checked here")
    return commit


def explain(error: BaseException, endpoint: str, repo: str, revision: str) -> str:
    """What went wrong and what to do, in one line, for whatever :func:`upload` raised."""
    owner, response, cause = repo.split("/")[0], None, error
    while response is None and cause is not None:
        response, cause = getattr(cause, "response", None), cause.__cause__ or cause.__context__
    status = getattr(response, "status_code", None)
    said = " ".join((getattr(error, "server_message", None) or str(error) or repr(error)).split())[:300]
    tokens = f"{endpoint}/settings/tokens"
    if "Invalid metadata" in said:
        return f"the Hub refused the card: {said}"
    if status is None:
        return f"the connection to {endpoint} broke ({said}); a commit arrives whole or not at all: publish again"
    known = {
        401: "the Hub does not accept the token (401): mistyped, expired or revoked; log in again with "
        f"`hf auth login`, or pass one from {tokens}",
        403: f"the token may not write there (403): use one with write permission ({tokens}), and an owner that "
        f"you are or belong to (here {owner!r})",
        404: f"no such repository or branch {revision!r} (404), or the token may not see it",
        412: "somebody else committed at the same moment (412); publish again",
        429: "the Hub wants fewer requests (429); wait a few minutes and publish again",
    }
    return known.get(status, f"the Hub answered {status} ({said}); nothing was committed, publish again")

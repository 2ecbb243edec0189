"""Puts files into a repository of the hub, all in one commit, and says in a sentence what stood in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tove_core import environment
from tove_core.errors import UploadError
from tove_core.hub.download import endpoint, pin_name
from tove_core.hub.reference import is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
"""The page of a repository: written where there is none, and never overwritten."""


class Uploaded(NamedTuple):
    """What a push left on the hub.

    Attributes:
        address: of the repository's page, at the branch that was pushed to.
        commit: 40 hex digits.
        card: whether the repository's page was written; if not, it had one.
    """

    address: str
    commit: str
    card: bool


def upload(
    repo: str,
    files: Mapping[str, Path],
    card: str,
    *,
    private: bool | None,
    revision: str | None,
    message: str,
    stale: Callable[[str], bool],
) -> Uploaded:
    """Commit files to a repository, which is made if it is not there; nobody sees a part of them.

    Args:
        repo: hub id.
        files: by path in the repository.
        card: text of the repository's page, where it has none.
        private: whether a repository that is made is private; None: as the account's default is.
        revision: branch, made if it is not there; None: `main`.
        message: of the commit.
        stale: whether a file of the repository that is not among `files` is removed with the same commit.

    Raises:
        UploadError: it is no hub id or branch, the network is switched off, nobody is logged in or has the rights,
            `private` is asked of a repository that is public, or the hub cannot be reached.
    """
    if not is_hub_id(repo):
        raise UploadError(f"{repo!r} is not a hub id; write owner/name, with your user or organization as the owner")
    if pin_name(repo, revision) is None:
        raise UploadError(f"revision {revision!r} is a commit, which nothing can be added to; give a branch")
    if environment.offline():
        raise UploadError(f"{repo} cannot be pushed to offline; unset {' and '.join(environment.OFFLINE)}")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(endpoint=endpoint())
    with _explained(repo):
        _require_login(repo)
        present = _prepared(api, repo, private, revision)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, str(path)) for name, path in files.items()
        ]
        if CARD not in present:
            operations.append(CommitOperationAdd(CARD, card.encode()))
        operations += [CommitOperationDelete(name) for name in present if name not in files and stale(name)]
        # One commit for all: `upload_folder` makes several of a large folder, and who loads meanwhile gets a half.
        done = api.create_commit(repo, operations, commit_message=message, revision=revision)
    address = f"{api.endpoint}/{repo}" + (f"/tree/{revision}" if revision else "")
    return Uploaded(address, done.oid, CARD not in present)


def _require_login(repo: str) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise UploadError(
            f"nobody is logged in, so nothing can be pushed to {repo}; run 'hf auth login', or set HF_TOKEN to a token "
            "that may write"
        )


def _prepared(api: HfApi, repo: str, private: bool | None, revision: str | None) -> list[str]:
    """Make repository and branch where they are missing; return the files that are there."""
    api.create_repo(repo, private=private, exist_ok=True)
    # The client leaves a repository that exists as it is, and what was to be private would be in public.
    if private and not api.model_info(repo).private:
        raise UploadError(f"{repo} exists and is public; make it private on its page, or leave out --private")
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, exist_ok=True)
    return list(api.list_repo_files(repo, revision=revision))


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into a sentence."""
    from huggingface_hub import errors

    try:
        yield
    except UploadError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise UploadError(f"{repo} cannot be pushed to offline; unset HF_HUB_OFFLINE") from error
    except Exception as error:  # the client's transport, and with it its error classes, changed between versions
        refused = _refusal(error)
        if refused is None:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UploadError(f"{repo} could not be pushed to ({said}); check the connection to the hub") from error
        raise UploadError(_sentence(repo, refused)) from error


def _refusal(error: BaseException | None) -> Exception | None:
    """Return the hub's own answer among the causes of an error, or None where it gave none."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _sentence(repo: str, refused: Exception) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    response = getattr(refused, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(refused, RevisionNotFoundError):
        return f"{repo} has no such revision; give a branch, or none for main"
    if status == 401:
        return f"the hub does not accept your token for {repo}; run 'hf auth login' again, or correct HF_TOKEN"
    if status == 403:
        return f"your token has no right to write to {repo}; take one that may write, or an owner you belong to"
    if isinstance(refused, RepositoryNotFoundError):
        return f"{repo} does not exist and could not be made, or is private; check the name and your token's rights"
    said = " ".join(str(getattr(refused, "server_message", None) or refused).split())[:200]
    return f"the hub refused what was pushed to {repo} ({status}: {said}); correct it and push again"

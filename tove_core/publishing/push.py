"""Push a checkpoint to the hub: verified first, its terms looked at, and all of it in one commit."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tove_core.checkpoint import Manifest, verified
from tove_core.errors import CheckpointError
from tove_core.hub.checkpoints import CHECKPOINT, FROZEN, MANIFEST, TENSORS, find_checkpoint
from tove_core.hub.digest import sha256
from tove_core.hub.download import SUFFIXES, pin_name
from tove_core.hub.lock import Lock
from tove_core.hub.upload import CARD, upload
from tove_core.model import ToveModel
from tove_core.publishing.card import model_card
from tove_core.publishing.measured import Measured
from tove_core.publishing.terms import check_passing_on, machine_only, parts_of, trained_inside

_MESSAGE = "Push a tove checkpoint"
_CLIP_FILES = ("open_clip_config.json", "config.json")
"""Either tells that a folder around a checkpoint is a merged model's, and not a run's."""


def push_model(
    model: ToveModel,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    full: bool = False,
    allow: Sequence[str] = (),
    measured: Sequence[Measured] = (),
) -> str:
    """Save a model as a checkpoint and push it; arguments and errors as for `push_folder`.

    Args:
        full: with the frozen parts inside, as `save_pretrained` does.
    """
    with tempfile.TemporaryDirectory(prefix="tove-push-") as place:
        folder = model.save_pretrained(Path(place) / CHECKPOINT, full=full)
        return push_folder(
            folder, repo, private=private, revision=revision, message=message, allow=allow, measured=measured
        )


def push_folder(
    folder: Path,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    allow: Sequence[str] = (),
    measured: Sequence[Measured] = (),
) -> str:
    """Push a checkpoint as it lies on disk, byte by byte, and return the address of its page.

    The repository is made if it is not there, and gets a page (README.md) if it has none. Of a checkpoint that was
    there before, nothing stays that the new one does not have. Of a merged model its CLIP goes along, for others.

    Args:
        folder: of a checkpoint, or of a run or a merged model that holds one.
        repo: hub id, `owner/name`.
        private: whether a repository that is made is private; None: as the account's default is.
        revision: branch, made if it is not there; None: `main`.
        message: of the commit.
        allow: names of frozen parts, and licences, whose weights may be passed on although tove does not know it.
        measured: what the page says of how the model did.

    Raises:
        CheckpointError: it is no checkpoint, or was altered.
        LicenseError: it holds weights of others whose licence is not known to let them be passed on.
        UploadError: the hub cannot be reached or does not let it.
    """
    manifest = verified(folder)
    parts = parts_of(manifest)
    check_passing_on(manifest, parts, allow)
    for line in _warnings(manifest):
        warnings.warn(line, stacklevel=2)
    files = _files(folder, manifest)
    done = upload(
        repo,
        files,
        model_card(repo, manifest, parts, measured),
        private=private,
        revision=revision,
        message=message or _MESSAGE,
        stale=_is_checkpoint_file,
    )
    if not done.card:
        warnings.warn(
            f"{repo} has a {CARD}, which stays as it is; delete it there to have another written", stacklevel=2
        )
    pin = pin_name(repo, revision)
    held = Lock().pin(pin) if pin else None
    if held not in (None, done.commit):
        warnings.warn(
            f"this machine holds {pin} to commit {str(held)[:12]}; "
            f"to load what was pushed run 'tove weights update {pin}'",
            stacklevel=2,
        )
    return done.address


def _files(folder: Path, manifest: Manifest) -> dict[str, Path]:
    """Return what is pushed, by its path in the repository.

    Raises:
        CheckpointError: the CLIP around a merged model's checkpoint is another than the one inside.
    """
    inside = find_checkpoint(folder)
    own = {name: inside / name for name in (MANIFEST, *manifest.files)}
    if inside == folder or not any((folder / name).is_file() for name in _CLIP_FILES):
        return own
    around = {one.name: one for one in sorted(folder.iterdir()) if one.is_file() and one.suffix in SUFFIXES}
    for name, path in around.items():
        digest = manifest.files.get(f"{FROZEN}/clip/{name}")
        if path.suffix == ".safetensors" and digest is not None and sha256(path) != digest:
            raise CheckpointError(f"{path} is not the CLIP of the checkpoint beside it; restore it from a copy")
    return around | {f"{CHECKPOINT}/{name}": path for name, path in own.items()}


def _is_checkpoint_file(name: str) -> bool:
    """Tell whether a path in a repository is where a checkpoint, or a merged model's, has a file."""
    parts = PurePosixPath(name).parts
    if parts[0] == CHECKPOINT:
        parts = parts[1:]
    return parts in ((MANIFEST,), (TENSORS,)) or parts[:1] == (FROZEN,)


def _warnings(manifest: Manifest) -> list[str]:
    found = [
        f"{what} is on this machine alone, so nobody else can load what is pushed; push it with --full (full=True)"
        for what in machine_only(manifest)
    ]
    return found + ([line] if (line := trained_inside(manifest)) else [])

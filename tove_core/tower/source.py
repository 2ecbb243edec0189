"""Finds a model's files, in a local folder or on the hub, and refuses what is not safetensors."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tove_core.errors import ConfigError, WeightsError
from tove_core.hub.reference import here, misspelt, package_parts

VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Any one of these makes a tokenizer of transformers."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def fetch(repo: str, file: str, revision: str | None = None) -> Path:
    """Return the local path of a hub file, downloaded, pinned and verified by the hub's downloader.

    Args:
        repo: hub id, `owner/name`.
        file: path in the repository.
        revision: commit; None: the one that is pinned, else the present `main`, which is then pinned.

    Raises:
        WeightsError: the file is not there, is not what was pinned, or the network is forbidden.
    """
    from tove_core.hub import download

    return download.fetch_file(repo, file, revision)


def pinned_revision(repo: str) -> str:
    """Return the commit a hub repository is held to; for libraries that download by themselves.

    Raises:
        WeightsError: nothing is pinned yet and the hub cannot be asked.
    """
    from tove_core.hub import download

    return download.pinned_revision(repo)


class Files:
    """A model's files by name, in a local `folder`, or in hub repository `repo` at commit `revision`, else its pin."""

    def __init__(self, *, folder: Path | None = None, repo: str | None = None, revision: str | None = None) -> None:
        self.folder = folder
        self.repo = repo
        self.revision = revision

    @property
    def where(self) -> str:
        """The place in words, for messages."""
        return f"folder {str(self.folder)!r}" if self.folder is not None else f"repository {self.repo!r}"

    @property
    def commit(self) -> str | None:
        """The commit that files of the repository were taken at; None: a folder, or none was taken yet."""
        from tove_core.hub.lock import Lock

        return self.revision or (Lock().pin(self.repo) if self.repo is not None else None)

    def has(self, name: str) -> bool:
        """Tell whether a local folder holds file `name`; a repository is always asked."""
        return self.folder is None or (self.folder / name).is_file()

    def get(self, name: str) -> Path:
        """Return the local path of file `name`.

        Raises:
            WeightsError: it is not there.
        """
        if self.folder is None:
            try:
                return fetch(str(self.repo), name, self.revision)
            except WeightsError as error:
                raise WeightsError(f"{error}{misspelt(str(self.repo))}") from error
        path = self.folder / name
        if not path.is_file():
            raise WeightsError(f"{self.where} has no file {name!r}; give a folder that holds it")
        return path

    def json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in file `name`.

        Raises:
            WeightsError: it is not there.
            ConfigError: it is not a JSON object.
        """
        try:
            value = json.loads(self.get(name).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{name!r} of {self.where} is not JSON ({error}); write it again") from error
        if not isinstance(value, dict):
            raise ConfigError(f"{name!r} of {self.where} holds a {type(value).__name__}; it must be a JSON object")
        return value

    def weights(self, name: str) -> Path:
        """Return the path of safetensors file `name`, with a hint where the folder has pickled weights only.

        Raises:
            WeightsError: there is no such file.
        """
        if not self.has(name) and self.folder is not None:
            pickled = sorted(p.name for p in self.folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".npz"})
            if pickled:
                raise WeightsError(
                    f"{self.where} has {pickled[0]!r} but no {name!r}, and tove reads safetensors only; "
                    "convert the weights with safetensors.torch.save_file"
                )
        return self.get(name)

    def require_tokenizer(self) -> None:
        """Check that a local folder has a vocabulary; without one transformers builds an empty tokenizer, silently.

        Raises:
            ConfigError: it has none.
        """
        if not any(self.has(name) for name in VOCABULARY_FILES):
            raise ConfigError(
                f"{self.where} has none of {', '.join(VOCABULARY_FILES)}; put the tokenizer there to embed text"
            )

    @contextmanager
    def staged(self, names: Iterable[str]) -> Iterator[Path]:
        """Give one folder in which all `names` lie; for libraries that load folders."""
        if self.folder is not None:
            yield self.folder
            return
        with tempfile.TemporaryDirectory(prefix="tove-") as temporary:
            for name in names:
                (Path(temporary) / name).symlink_to(self.get(name).resolve())
            yield Path(temporary)


def local_folder(path: str) -> Files:
    """Return the files of a local folder.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise ConfigError(f"folder {path!r} does not exist{here(path)}; give the folder of a saved model")
    return Files(folder=folder)


def hub_repository(repo: str, revision: str | None = None) -> Files:
    """Return the files of a hub repository, at a commit; None: the one it is pinned to.

    Raises:
        ConfigError: `repo` does not have the form OWNER/NAME.
    """
    if not _HUB_ID.fullmatch(repo):
        raise ConfigError(
            f"{repo!r} is neither a hub id OWNER/NAME nor a folder that exists{here(repo)}; check the spelling"
        )
    return Files(repo=repo, revision=revision)


def package_folder(reference: str) -> Files:
    """Return the files of `MODULE/FOLDER`, a folder inside an installed package, without importing the package.

    Raises:
        ConfigError: the package or the folder is not there, or the folder is none inside it.
    """
    module, _, inside = reference.partition("/")
    parts = package_parts(module, inside)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"package {module!r} of 'package:{reference}' is not installed; write 'package:MODULE/FOLDER'"
        )
    for location in spec.submodule_search_locations:
        if (folder := Path(location, *parts)).is_dir():
            return Files(folder=folder)
    raise ConfigError(f"package {module!r} has no folder {inside!r}; check 'package:{reference}'")


def sha256_of(paths: Sequence[Path]) -> str:
    """Return the sha256 of one file; of several, that of their sorted `sha256sum` lines."""
    digests: list[tuple[str, str]] = []
    for path in paths:
        with path.open("rb") as stream:
            digests.append((path.name, hashlib.file_digest(stream, "sha256").hexdigest()))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("".join(f"{d}  {n}\n" for n, d in sorted(digests)).encode()).hexdigest()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a closing clause that names the closest known names, or says how many there are."""
    known = list(known)
    lower = {k.lower(): k for k in known}
    close = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=3)]
    if close:
        return f"did you mean {', '.join(map(repr, close))}?"
    if len(known) <= 12:
        return f"choose from {', '.join(map(repr, known)) or 'none'}"
    return f"there are {len(known)} to choose from, such as {known[0]!r}"

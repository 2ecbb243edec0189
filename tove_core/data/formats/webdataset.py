"""Tar shards in webdataset's layout: members of one key follow each other, such as key.jpg, key.txt and key.json."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from tove_core.config import SourceConfig
from tove_core.data.files import parse, required_path, writable
from tove_core.data.formats.records import RecordOptions, Row, sample
from tove_core.data.images import PackedImage
from tove_core.data.malformed import one_row
from tove_core.data.remote import fetch_shard
from tove_core.data.sample import Sample
from tove_core.data.shards import expanded, url_of
from tove_core.errors import DataError

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")
"""Key and extension of a member: the extension is all behind the first dot of the base name."""


class ShardOptions(RecordOptions):
    """Options of the reader "webdataset"; `columns` names keys of the JSON member."""

    image: tuple[str, ...] = Field(
        default=("jpg", "jpeg", "png", "webp"), description="extensions of images; a sample has one of them"
    )
    text: str = Field(default="txt", description="extension of the member that is the text column")


def read(config: SourceConfig, options: ShardOptions) -> list[Sample]:
    """Read one sample per key, with id "SHARD/KEY"; images stay in the shards and are read when wanted.

    `path` is an uncompressed tar file, or a folder whose `*.tar` are read in the order of their names, or a URL, whose
    shards are fetched once; names and URLs may hold `{000..009}` and `{a,b}`. The members are put together like a
    line of the reader "jsonl": the JSON's keys, and the text. Other members are left alone.

    Raises:
        DataError: there are no shards, one is damaged, compressed or cannot be fetched, or a sample is malformed.
    """
    if config.images is not None:
        raise DataError("data.images was given, but reader 'webdataset' has its images in the shards; leave it out")
    return [one for shard in _shards(config) for one in _shard(shard, options)]


def _shards(config: SourceConfig) -> list[Path]:
    """Return the shards in order, all of them files of this machine."""
    if config.path is not None and (url := url_of(config.path)) is not None:
        return [fetch_shard(one) for one in expanded(url)]
    if config.path is not None and not config.path.exists() and len(names := expanded(str(config.path))) > 1:
        return [required_path(config.model_copy(update={"path": Path(name)})) for name in names]
    path = required_path(config)
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not shards:
        raise DataError(f"{path} holds no .tar files; set data.path to the folder of the shards")
    return shards


def _shard(shard: Path, options: ShardOptions) -> Iterator[Sample]:
    try:
        # "r:" and not "r": in a compressed archive a member cannot be reached by its offset.
        with tarfile.open(shard, "r:") as tar:
            for key, members in _groups(tar):
                found = None
                with one_row:
                    found = _sample(tar, shard, key, members, options)
                if found is not None:
                    yield found
            end = tar.offset
        # tarfile takes a file that was cut off between or within heads for a shorter one.
        with shard.open("rb") as file:
            file.seek(end)
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard} is not a readable uncompressed tar archive ({error}); repack it") from error
    if not whole:
        raise DataError(f"{shard} ends without the mark of its end, so it is truncated; copy it again")


def _groups(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    key, members = "", {}
    for member in tar:
        found = _NAME.fullmatch(member.name)
        if not member.isreg() or found is None:
            continue
        extension = found[2].lower()
        if found[1] != key:
            if members:
                yield key, members
            key, members = found[1], {}
        if extension not in members:
            members[extension] = member
            continue
        with one_row:
            raise DataError(f"{tar.name} has {member.name} twice; repack it")
    if members:
        yield key, members


def _sample(
    tar: tarfile.TarFile, shard: Path, key: str, members: dict[str, tarfile.TarInfo], options: ShardOptions
) -> Sample:
    where = f"{shard} key {writable(key, 'key', shard)}"
    images = [members[extension] for extension in options.image if extension in members]
    if len(images) != 1:
        raise DataError(
            f"{where} has {len(images)} images among {', '.join(members)}, but one is wanted; set data.options.image"
        )
    cells: dict[str, Any] = {}
    if "json" in members:
        cells = _json(_content(tar, members["json"]), where)
    if options.text in members:
        cells = {**cells, options.columns.text: _decoded(_content(tar, members[options.text]), where)}
    image = PackedImage(shard, images[0].name, images[0].offset_data, images[0].size)
    return sample(Row(shard, f"key {key}", cells, f"{shard.stem}/{key}"), options.columns.names, image)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")  # as in `read_text`
    except UnicodeDecodeError as error:
        raise DataError(f"{where} has a text that is not UTF-8 (byte {error.start}); convert it") from error


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = parse(_decoded(content, where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where} has a .json that is not JSON ({error.msg.lower()}); repair it") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} has a .json of type {type(found).__name__}, but an object is wanted; repair it")
    return found

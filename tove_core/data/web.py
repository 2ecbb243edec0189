"""Files from web servers."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tove_core.data.transport import Answer, Broken, Refused, Stale

TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another try may improve on."""
_PASSING = (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException, urllib.error.URLError)
"""What ends a connection."""


@contextmanager
def opened(url: str, have: int, same: str | None) -> Iterator[Answer]:
    """Be a `Transport`."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "tove"}
    if have and same is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": same}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            told = f"the server answered {error.code} {error.reason}"
        if error.code == 416:
            raise Stale(told) from error
        raise (Broken if error.code in _AGAIN else Refused)(told) from error
    except _PASSING as error:
        raise _broken(error) from error

    def read(most: int) -> bytes:
        try:
            return answer.read1(most)
        except _PASSING as error:
            raise _broken(error) from error

    with answer:
        begin, total = _extent(answer.status, answer.headers, have)
        yield Answer(begin, total, _same(answer.headers), read)


def _broken(error: Exception) -> Broken:
    return Broken(str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__)


def _extent(status: int, headers: Mapping[str, str], have: int) -> tuple[int, int | None]:
    """Return with which byte an answer begins, and how many the file has in all; None: the server does not say."""
    if status != 206:
        length = headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(have) or not total.isdigit():
        raise Broken(f"bytes from {have} were asked for, and {headers.get('Content-Range')!r} was given")
    return have, int(total)


def _same(headers: Mapping[str, str]) -> str | None:
    """Return what lets a later request make sure that the file is the same; weak tags do not."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")

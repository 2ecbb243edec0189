"""Serve the page: what must be there first, a free port, and an end without noise. No gradio until it is served."""

from __future__ import annotations

import importlib
import importlib.util
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tove_core.app.offline import OwnOnly
from tove_core.errors import ConfigError

if TYPE_CHECKING:
    from tove_core.app.host import Host

PORT = 7860
"""The first port that is tried where none is given."""
TRIED = 100
LARGEST = "50mb"
"""Of a file that is uploaded."""
OLDEST = (6, 20)
"""Version of gradio; pages of older ones name fonts and a script of other servers."""


def require_gradio() -> None:
    """Refuse to go on without gradio, before a model is loaded.

    Raises:
        ConfigError: it is not installed, or too old.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("'tove app' needs gradio, which is not installed; run pip install 'tove-core[app]'")
    found = version("gradio")
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise ConfigError(f"'tove app' found gradio {found} and needs {wanted}; run pip install -U 'tove-core[app]'")
    try:
        importlib.import_module("gradio")
    except ImportError as error:
        raise ConfigError(
            f"'tove app' needs gradio, which fails to load here ({error}); repair it: pip install -U 'tove-core[app]'"
        ) from error


def free_port(host: str, port: int | None = None) -> int:
    """Return the port that is given if it can be listened on, else the first of 100 from 7860 on that can.

    Raises:
        ConfigError: it is taken or forbidden, or the host is no address of this machine.
    """
    if port is not None:
        if (error := _refusal(host, port)) is None:
            return port
        raise ConfigError(f"port {port} of {host} cannot be listened on ({_reason(error)}); give another --port")
    for candidate in range(PORT, PORT + TRIED):
        if (error := _refusal(host, candidate)) is None:
            return candidate
        if isinstance(error, socket.gaierror):
            break
    raise ConfigError(
        f"no port of {host} from {PORT} to {PORT + TRIED - 1} can be listened on ({_reason(error)}); give another "
        "--host or a --port"
    )


def _refusal(host: str, port: int) -> OSError | None:
    """Return why a port cannot be listened on; None: it can."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            tried.bind(place)
            tried.listen()
    except OSError as error:
        return error
    return None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def start(
    host: Host, name: str, facts: str, images: Sequence[str | Path], address: str, port: int, share: bool
) -> tuple[Any, str, str | None]:
    """Start to serve in threads of its own; return the page, its address, and the public one where there is one.

    Args:
        address: of this machine, on which to listen.
        port: as `free_port` gave it.
        share: whether gradio's servers shall make it public.

    Raises:
        ConfigError: the port was taken meanwhile.
    """
    from tove_core.app.page import STYLE, THEME, build_page

    page = build_page(host, name, facts, images)
    # Gradio's frame of a shared page is another machine's, about which nothing is known here.
    own = {} if share else {"middleware": [OwnOnly.entry()]}
    try:
        _, local, public = page.launch(
            server_name=address,
            server_port=port,
            share=share,
            theme=THEME,
            css=STYLE,
            app_kwargs=own,
            footer_links=["api"],
            max_file_size=LARGEST,
            quiet=True,
            inbrowser=False,
            prevent_thread_lock=True,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
        )
    except OSError as error:
        raise ConfigError(f"port {port} of {address} was taken meanwhile; give another --port") from error
    return page, local, public or None


def wait(page: Any) -> None:
    """Serve until the process is interrupted, then end."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("ending", flush=True)  # browsers that are still connected are waited for, some seconds
    finally:
        page.close(verbose=False)

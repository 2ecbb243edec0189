"""A page that asks nobody else for anything: browsers are told so with every page that is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""What a browser may load and send to: where the page is from. Gradio's own scripts are written into its page."""


class OwnOnly:
    """Adds the policy to every answer of a web application, by the interface ASGI.

    Args:
        app: the application.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    @classmethod
    def entry(cls) -> Any:
        """Return what starlette's applications take in their list `middleware`."""
        from starlette.middleware import Middleware

        return Middleware(cls)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, sent)

"""The pages of docs/, taken apart: fenced blocks with the marker above them, links, headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in [*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"])
_FENCE = re.compile(
    r"(?:^<!-- test: (?P<marker>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, what the marker above it says, and its line on the page."""

    language: str
    text: str
    marker: str
    line: int


class Page:
    """One Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.blocks = [
            Block(m["language"], m["text"], m["marker"] or "", self.text[: m.start("text")].count("\n") + 1)
            for m in _FENCE.finditer(self.text)
        ]
        self.prose = _FENCE.sub("", self.text)

    @property
    def anchors(self) -> set[str]:
        """Headings as GitHub names them, and explicit anchors."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
        return slugs | set(re.findall(r'<a id="([^"]+)">', self.prose))

    @property
    def links(self) -> list[str]:
        """Targets of Markdown links, those to the web left out."""
        return [t for t in re.findall(r"\]\(([^)\s]+)\)", self.prose) if not t.startswith(("http:", "https:"))]

    @property
    def commands(self) -> list[str]:
        """Command lines that start with `tove`, in console blocks and in code spans."""
        shown = [b.text for b in self.blocks if b.language == "console"]
        lines = [line[2:] for text in shown for line in text.splitlines() if line.startswith("$ ")]
        lines += re.findall(r"`(tove [^`]+)`", self.prose)
        return [line for line in lines if line.startswith("tove ")]


@pytest.fixture(scope="session")
def pages() -> dict[str, Page]:
    """Every page by its path in the repository."""
    return {str(path.relative_to(ROOT)): Page(path) for path in PAGES}

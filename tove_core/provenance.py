"""Where every part of a model came from: saved with it, compared when it is loaded. No torch."""

from __future__ import annotations

from pydantic import Field

from tove_core.spec import Frozen


class PartProvenance(Frozen):
    """A frozen part: how it was named and the hash of its weights, where one file held them."""

    reference: str
    sha256: str | None = None
    revision: str | None = Field(default=None, description="commit, where the reference is a hub repository")


class ExpertProvenance(PartProvenance):
    """An expert: also who offers it and under which licence its weights come."""

    name: str
    variant: str | None = None
    distribution: str
    version: str
    license: str | None = None
    commits: dict[str, str] = Field(
        default_factory=dict, description="commit of every hub repository its weight files are from, by hub id"
    )

    @property
    def request(self) -> str:
        """The name that resolves to this expert and variant, whatever else is installed."""
        return f"{self.reference}:{self.variant}" if self.variant else self.reference


class Origin(Frozen):
    """How the frozen parts were asked for: needed to find, or draw, the same ones again."""

    weights: str = Field(default="pinned", description="pinned, random, or the folder the experts' weights came from")
    seed: int = 0
    own_tower: bool = Field(
        default=False, description="the tower was trained by merging: no reference leads to it, so it is always inside"
    )


class Provenance(Frozen):
    """Everything frozen that a model was built from."""

    tove: str
    clip: PartProvenance
    experts: dict[str, ExpertProvenance] = Field(default_factory=dict)
    decoder: PartProvenance | None = None

    def differences(self, other: Provenance) -> list[str]:
        """Name each part that differs between this record and another: who offers an expert, and weights.

        Unknown hashes are not compared, and commits only where there is no hash: another may hold the same file.
        Another version of a plugin is no difference; `recall.other_versions` tells it.
        """
        found = [
            f"expert {key}: {theirs.request} where {mine.request} was recorded"
            for key, mine in self.experts.items()
            if (theirs := other.experts.get(key)) and theirs.request != mine.request
        ]
        pairs = [("clip", self.clip, other.clip), ("decoder", self.decoder, other.decoder)]
        pairs += [(f"expert {key}", part, other.experts.get(key)) for key, part in self.experts.items()]
        for label, mine, theirs in pairs:
            if mine is None or theirs is None:
                continue
            what, old, new = "weights", mine.sha256, theirs.sha256
            if not (old and new):
                what, old, new = "commit", mine.revision, theirs.revision
            if old and new and old != new:
                found.append(f"{label}: {what} {new[:12]} where {old[:12]} was recorded")
        return found

"""Under which terms the parts of a checkpoint come, and which of their weights a push may pass on. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tove_core import plugins
from tove_core.errors import LicenseError, ToveError
from tove_core.hub.reference import is_hub_id
from tove_core.licenses import combined, may_be_passed_on, terms_of
from tove_core.provenance import ExpertProvenance
from tove_core.recall import find_again

if TYPE_CHECKING:
    from tove_core.checkpoint import Manifest


class Part(NamedTuple):
    """A frozen part of a model.

    Attributes:
        what: CLIP, expert or language model.
        name: as the configuration has it.
        source: of an expert: distribution and version that offer it.
        license: of its weights; None: not known, or it has none.
        commercial: whether that allows commercial use; None: not known.
        owned: whether it has weights that somebody trained.
        gated: whether its repository gives them only to those who accepted its terms.
        also: further names by which somebody may mean it.
    """

    what: str
    name: str
    source: str | None
    license: str | None
    commercial: bool | None
    owned: bool
    gated: bool = False
    also: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Return how a sentence names it."""
        return f"{self.what} {self.name!r}"


def parts_of(manifest: Manifest) -> list[Part]:
    """Return the frozen parts of a checkpoint: CLIP, experts, language model.

    What its plugin says of an expert goes beyond what was recorded; where it is not installed, whether commercial use
    is allowed is not known.
    """
    config, random = manifest.config, manifest.origin.weights == "random"
    parts = [_model("CLIP", config.clip.name, random)]
    parts += [_expert(key, known, random) for key, known in manifest.provenance.experts.items()]
    return parts + ([_model("language model", config.decoder.name, random)] if config.decoder else [])


def _model(what: str, name: str, random: bool) -> Part:
    terms = terms_of(name)
    return Part(what, name, None, terms and terms.license, terms and terms.commercial, owned=not random)


def _expert(key: str, known: ExpertProvenance, random: bool) -> Part:
    source = f"{known.distribution} {known.version}"
    also = frozenset({key.partition(":")[0], known.name, known.reference, known.request})
    try:
        weights = find_again(plugins.registry(), key, known).spec.weights
    except ToveError:
        owned = not random and (known.license is not None or known.sha256 is not None)
        return Part("expert", key, source, known.license, None, owned, also=also)
    if weights is None or random:
        return Part("expert", key, source, None, True, owned=False, also=also)
    license, commercial = combined(weights)
    gated = any(file.gated for file in weights.files().values())
    return Part("expert", key, source, license, commercial, owned=True, gated=gated, also=also)


def check_passing_on(manifest: Manifest, parts: Sequence[Part], allow: Sequence[str]) -> None:
    """Refuse a push that would pass weights of others on where their licence is not known to let one.

    Args:
        manifest: of what is pushed; by reference it holds no weights but those that were trained.
        parts: its parts.
        allow: names of parts, and licences, whose terms were read and let one.

    Raises:
        LicenseError: it would; one line for each part.
    """
    if not manifest.full:
        return
    cure = "read its terms, and if they let you name it with --allow (allow=)"
    cure += "" if manifest.origin.own_tower else ", or push by reference, without --full"
    lines = []
    for part in parts:
        if not part.owned or {part.name, *part.also} & set(allow):
            continue
        if part.gated:
            why = "is gated: its weights are given to those alone who accepted its terms"
        elif not may_be_passed_on(part.license, allow):
            why = "has a licence that tove does not know"
            if part.license:
                why = f"is under {part.license}, of which tove does not know that it lets weights be passed on"
        else:
            continue
        lines.append(f"{part} {why}, and what would be pushed holds them; {cure}")
    if lines:
        raise LicenseError("\n".join(lines))


def trained_inside(manifest: Manifest) -> str | None:
    """Return a sentence where weights of the language model were trained and so go along with any push, else None."""
    decoder = manifest.config.decoder
    if decoder is None or decoder.train == "none" or manifest.origin.weights == "random" or terms_of(decoder.name):
        return None
    return f"weights trained from language model {decoder.name!r} go along; its licence holds for them too"


def machine_only(manifest: Manifest) -> list[str]:
    """Return what a checkpoint by reference refers to that lies on this machine alone: nobody else can load it."""
    if manifest.full:
        return []
    config, found = manifest.config, []
    scheme, _, rest = config.clip.name.partition(":")
    if scheme == "local-dir" or (scheme == "hf" and Path(rest).expanduser().is_dir()):
        found.append(f"CLIP {config.clip.name!r}")
    if config.decoder and not config.decoder.name.startswith("package:") and not hub_id(config.decoder.name):
        found.append(f"language model {config.decoder.name!r}")
    if manifest.origin.weights not in ("pinned", "random"):
        found.append(f"the experts' weights in {manifest.origin.weights!r}")
    return found


def base_models(manifest: Manifest) -> list[str]:
    """Return the hub ids of CLIP and language model, where they have one."""
    config = manifest.config
    scheme, _, clip = config.clip.name.partition(":")
    names = [clip] if scheme in ("hf", "hf-hub") else []
    names += [config.decoder.name] if config.decoder else []
    return [name for name in names if hub_id(name)]


def hub_id(name: str) -> bool:
    """Tell whether a name means a repository of the hub and not a folder, which comes before it."""
    return is_hub_id(name) and not Path(name).is_dir()

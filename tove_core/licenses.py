"""Which licences of weights a model may contain: a policy that is applied before anything is downloaded. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field, StringConstraints

from tove_core.errors import ConfigError, LicenseError
from tove_core.spec import Frozen, Weights

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tove_core.config import ModelConfig
    from tove_core.plugins import Resolved

Word = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Terms(NamedTuple):
    """What is known of the weights of a CLIP or a language model: their licence, and if it allows commercial use."""

    license: str
    commercial: bool


NONE_NEEDED = "none needed"
"""What tables say in place of a licence where an expert has no weights."""

_TERMS = {"package:tove_core.": Terms("Apache-2.0", commercial=True)}
"""By the beginning of a reference. What tove itself ships is under its own licence; of others no data are kept."""


def terms_of(reference: str) -> Terms | None:
    """Return the terms of a CLIP or language model by the name a configuration gives it; None: not known to tove."""
    return next((terms for beginning, terms in _TERMS.items() if reference.startswith(beginning)), None)


_PASSED_ON = (
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "MIT", "MIT-0", "Unlicense", "Zlib",
    "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0",
)  # fmt: skip
"""Licences by which whoever has the weights may pass them on, at least without payment, if they name the authors."""


def may_be_passed_on(license: str | None, allow: Collection[str] = ()) -> bool:
    """Tell whether weights under a licence may be put where others fetch them; one that is not known does not say so.

    Args:
        license: an SPDX expression.
        allow: further licences whose terms somebody has read.
    """
    return license is not None and _is_among(license, (*_PASSED_ON, *allow), every=True)


class LicensePolicy(Frozen):
    """Which weights may be part of a model. `deny` comes first, then `allow`, then `commercial`.

    Entries of `allow` and `deny` are licences (SPDX identifiers) or names of experts as `tove experts list` shows
    them, with or without `:variant` and `distribution/`.
    """

    commercial: bool = Field(default=False, description="only weights whose licence allows commercial use")
    allow: tuple[Word, ...] = Field(default=(), description="licences and experts accepted whatever `commercial` says")
    deny: tuple[Word, ...] = Field(default=(), description="licences and experts never accepted")
    strict: bool = Field(
        default=False,
        description="a CLIP or language model whose licence tove does not know must be named in `allow` too",
    )

    @classmethod
    def named(cls, name: str) -> LicensePolicy:
        """Return the policy a word stands for: `commercial`, or `strict` for `commercial` with `strict`.

        Raises:
            ConfigError: there is no such word.
        """
        if name not in ("commercial", "strict"):
            raise ConfigError(f"there is no licence policy {name!r}; choose commercial or strict, or give its fields")
        return cls(commercial=True, strict=name == "strict")

    def renamed(self, names: Mapping[str, str]) -> LicensePolicy:
        """Return the policy with a second name, the value, for each CLIP or language model that the key names.

        What the policy admits or denies by its name, or by terms that are known by that name, it does by the second.
        """
        allow = tuple(new for old, new in names.items() if _admitted(self, old))
        deny = tuple(new for old, new in names.items() if _denied(self, old))
        return self.model_copy(update={"allow": self.allow + allow, "deny": self.deny + deny})


def check_licenses(config: ModelConfig, resolved: Mapping[str, Resolved]) -> list[str]:
    """Hold the parts of a model against its policy.

    Args:
        config: the model; without `licenses` everything is accepted.
        resolved: its experts by key.

    Returns:
        One sentence for each part that was not checked because its licence is not known.

    Raises:
        LicenseError: the policy does not admit a part; one line for each.
    """
    policy = config.licenses
    if policy is None:
        return []
    refused = [_refusal(policy, key, found) for key, found in resolved.items()]
    models = [("CLIP", config.clip.name)]
    models += [("language model", config.decoder.name)] if config.decoder else []
    unchecked = []
    for what, name in models:
        terms = terms_of(name)
        if denied := _denied(policy, name):
            refused.append(f"{what} {name!r} is {denied}; choose another, or take it out of licenses.deny")
        elif _admitted(policy, name):
            continue
        elif terms is not None:
            refused.append(f"{what} {name!r} is {terms.license}, which does not allow commercial use; choose another")
        elif policy.strict:
            refused.append(
                f"{what} {name!r} has a licence tove does not know, and the policy is strict; read its terms, then add "
                f"{name!r} to licenses.allow, or choose another"
            )
        elif policy.commercial:
            unchecked.append(f"{what} {name!r} has a licence tove does not know and did not check; read its terms")
    if lines := [line for line in refused if line]:
        raise LicenseError("\n".join(lines))
    return unchecked


def combined(weights: Weights | None) -> tuple[str | None, bool | None]:
    """Return the licence of all files of an expert together, and whether it allows commercial use (None: not known)."""
    files = list(weights.files().values()) if weights else []
    said = [file.commercial for file in files]
    commercial = False if False in said else None if None in said or not said else True
    return " AND ".join(dict.fromkeys(file.license for file in files)) or None, commercial


def shown(weights: Weights | None) -> tuple[str | None, bool | None]:
    """Return what a table says: `combined`, or that an expert without weights needs no licence."""
    return combined(weights) if weights else (NONE_NEEDED, True)


def _denied(policy: LicensePolicy, name: str) -> str | None:
    """Return how a policy denies a CLIP or language model, or None."""
    if name in policy.deny:
        return "denied by name"
    terms = terms_of(name)
    return f"denied, for it is {terms.license}" if terms and _is_among(terms.license, policy.deny) else None


def _admitted(policy: LicensePolicy, name: str) -> bool:
    """Tell whether a policy that does not deny a CLIP or language model names it, or is content with its terms."""
    terms = terms_of(name)
    if name in policy.allow or terms is None:
        return name in policy.allow
    return terms.commercial or not policy.commercial or _is_among(terms.license, policy.allow, every=True)


def _refusal(policy: LicensePolicy, key: str, found: Resolved) -> str | None:
    """Return why an expert is refused, or None."""
    weights = found.spec.weights
    names = _names(key, found)
    if hit := sorted(names & set(policy.deny)):
        return f"expert {key!r} is denied by name ({hit[0]}); leave it out, or take it out of licenses.deny"
    files = weights.files().values() if weights else ()
    for file in files:
        if _is_among(file.license, policy.deny):
            return f"expert {key!r}: its weights are {file.license}, which licenses.deny names; choose another expert"
    if names & set(policy.allow) or not policy.commercial:
        return None
    asked = (file for file in files if not _is_among(file.license, policy.allow, every=True))
    return next((line for file in asked if (line := _not_commercial(key, file))), None)


def _not_commercial(key: str, weights: Weights) -> str | None:
    if weights.commercial:
        return None
    where = f" ({weights.license_url})" if weights.license_url else ""
    if weights.commercial is None:
        return (
            f"expert {key!r}: whether {weights.license}{where} allows commercial use is not known, and the policy "
            f"wants only weights that do; read it, then allow it by name: licenses.allow=[{key}]"
        )
    return (
        f"expert {key!r}: its weights are {weights.license}{where}, which does not allow commercial use; "
        f"choose another expert, or licenses.allow=[{key}] if you have other terms"
    )


def _names(key: str, found: Resolved) -> set[str]:
    """Return everything the expert is called: each form of its name, with its variant and without."""
    bare = {key.partition(":")[0], found.offer.spec.name, found.offer.qualified}
    return {key} | bare | ({f"{name}:{found.variant}" for name in bare} if found.variant else set())


def _is_among(expression: str, licenses: tuple[str, ...], *, every: bool = False) -> bool:
    """Tell whether a licence expression falls under a list of licences; SPDX compares without case.

    Of alternatives (OR) one may be chosen. Of what holds together (AND) one part that is denied is enough to deny,
    and `every` part must be allowed to allow.
    """
    listed = {one.lower() for one in licenses}
    if expression.lower() in listed:
        return True
    options = [[part.partition(" WITH ")[0].lower() for part in option.split(" AND ")]
               for option in expression.split(" OR ")]  # fmt: skip
    if every:
        return any(all(part in listed for part in option) for option in options)
    return all(any(part in listed for part in option) for option in options)

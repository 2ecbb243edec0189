"""Find plugins, read the experts they offer, and keep what failed until somebody asks for it. No torch.

pluggy alone does not isolate plugins: one ImportError ends its loop, and of two equal names one silently vanishes.
So each plugin gets a PluginManager of its own, and its offers are accepted together or not at all.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata

from pydantic import ValidationError

from tove_core import environment
from tove_core.contained import contained
from tove_core.errors import AmbiguousExpertError, ConfigError, PluginError, UnknownExpertError, WeightsError
from tove_core.in_process import IN_PROCESS, REGISTERED, Registered
from tove_core.offered import describe, read
from tove_core.spec import API, ExpertSpec, Variant

GROUP = "tove"
OWN = "tove-core"
"""The distribution whose expert names are reserved: a plugin's expert of the same name needs its qualified name."""


def canonical(name: str) -> str:
    """Return a distribution name in its PEP 503 form."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, order=True)
class Source:
    """The plugin an expert comes from."""

    distribution: str
    version: str
    entry_point: str

    def __str__(self) -> str:
        if self.distribution == IN_PROCESS:
            return "this process (tove_core.register)"
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Offer:
    """An expert and where it comes from."""

    spec: ExpertSpec
    source: Source

    @property
    def qualified(self) -> str:
        """`distribution/name`, which always resolves."""
        return f"{self.source.distribution}/{self.spec.name}"


@dataclass(frozen=True)
class Resolved:
    """A requested name, resolved: the offer, the variant taken and the spec with that variant applied."""

    offer: Offer
    variant: str | None
    spec: ExpertSpec

    def to_build(self) -> ExpertSpec:
        """Return the spec for an expert that is to be built or downloaded.

        Raises:
            UnknownExpertError: the request names a family, which can be shown and checked, and no member of it.
        """
        if self.variant is None and self.offer.spec.family is not None:
            name = self.offer.spec.name
            raise UnknownExpertError(
                f"expert {name!r} stands for a family; name the member after a colon, as in '{name}:NAME'"
            )
        return self.spec


@dataclass
class Registry:
    """Every expert that loaded, every plugin that did not, and why; and plugins that loaded and offer nothing."""

    offers: list[Offer] = field(default_factory=list)
    failures: dict[Source, BaseException] = field(default_factory=dict)
    blocked: dict[Source, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    empty: list[Source] = field(default_factory=list)

    def names(self) -> list[str]:
        """Names that resolve as they stand, qualified where a bare name would be ambiguous or reserved."""
        return sorted(offer.spec.name if self._bare(offer.spec.name) == [offer] else offer.qualified
                      for offer in self.offers)  # fmt: skip

    def resolve(self, request: str) -> Resolved:
        """Find the expert for `name`, `name:variant` or `distribution/name[:variant]`.

        A variant that an expert with a `family` does not list is asked of that function, which may import anything.

        Raises:
            AmbiguousExpertError: several distributions offer the bare name.
            UnknownExpertError: nobody offers it, or it has no such variant; failed plugins are named and chained.
            PluginError: the expert's `family` cannot be imported, fails, or gives no valid variant.
        """
        name, _, variant = request.partition(":")
        offer = self.find(name)
        known = sorted(offer.spec.variants)
        if variant and variant not in known and offer.spec.family is not None:
            return Resolved(offer, variant, _member(offer, variant))
        if variant and variant not in known:
            raise UnknownExpertError(
                f"expert {name!r} has no variant {variant!r}; {_did_you_mean(variant, known)}it has: "
                f"{', '.join(known) or 'none'}"
            )
        return Resolved(offer, variant or offer.spec.default, offer.spec.variant(variant or None))

    def find(self, name: str) -> Offer:
        """Find the offer for `name` or `distribution/name`, whatever its variants; errors as for `resolve`."""
        distribution, slash, bare = name.partition("/")
        if slash:
            hits = [o for o in self.offers if o.qualified == f"{canonical(distribution)}/{bare}"]
        else:
            hits = self._bare(name)
        if len(hits) == 1:
            return hits[0]
        if hits:
            options = ", ".join(sorted(offer.qualified for offer in hits))
            raise AmbiguousExpertError(
                f"{len(hits)} distributions offer an expert named {name!r}; choose one of: {options}"
            )
        raise UnknownExpertError(self._unknown(name)) from next(iter(self.failures.values()), None)

    def _bare(self, name: str) -> list[Offer]:
        hits = [offer for offer in self.offers if offer.spec.name == name]
        own = [offer for offer in hits if offer.source.distribution == OWN]
        return own or hits

    def _unknown(self, name: str) -> str:
        known = self.names()
        lines = [f"no expert named {name!r}; {_did_you_mean(name, known)}installed: {', '.join(known) or 'none'}"]
        for source, error in sorted(self.failures.items()):
            lines.append(f"{source} failed to load ({type(error).__name__}: {error}); 'tove doctor' tells more")
        lines += [f"{source} is blocked by {variable}" for source, variable in sorted(self.blocked.items())]
        lines += [f"{source} offers no expert" for source in sorted(self.empty)]
        return "\n  ".join(lines)


def discover(env: Mapping[str, str] = os.environ) -> Registry:
    """Load every allowed plugin of the entry-point group `tove`; one that fails is recorded, never raised.

    `TOVE_PLUGINS` (allow list; empty: only tove's own) and `TOVE_BLOCK` hold distribution names and act before import.
    With `TOVE_STRICT=1` the first failure is raised.

    Raises:
        PluginError: in strict mode, or when tove's own experts are broken.
    """
    registry = Registry()
    allow, block = _names(env.get(environment.PLUGINS)), _names(env.get(environment.BLOCK)) or set()
    found = sorted(_entry_points(), key=lambda one: one[0])
    for name in sorted(((allow or set()) | block) - {source.distribution for source, _ in found}):
        registry.notes.append(f"{environment.PLUGINS}/{environment.BLOCK} names {name!r}, which is not installed")
    for source, entry_point in found:
        if variable := blocker(source, env):
            registry.blocked[source] = variable
        else:
            strict = source.distribution == OWN or environment.is_true(env.get(environment.STRICT))
            _accept(registry, source, entry_point.load, strict=strict)
    if OWN in block:
        registry.notes.append(f"{environment.BLOCK} names {OWN!r}, whose own experts cannot be blocked")
    return registry


def blocker(source: Source, env: Mapping[str, str] = os.environ) -> str | None:
    """Return the environment variable that keeps a plugin from being imported, or None. tove's own never are."""
    allow, block = _names(env.get(environment.PLUGINS)), _names(env.get(environment.BLOCK)) or set()
    if source.distribution == OWN:
        return None
    if source.distribution in block:
        return environment.BLOCK
    return environment.PLUGINS if allow is not None and source.distribution not in allow else None


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Return this process's registry, discovered on first use, with what this process registered itself."""
    found = discover()
    for one in REGISTERED.values():
        try:
            _accept_registered(found, one)
        except PluginError as error:  # a plugin installed since then offers the name
            found.failures[_source(one)] = error
    return found


def register(spec: ExpertSpec) -> Offer:
    """Offer an expert in this process, beside those of installed plugins: to try one in a notebook.

    It goes through the checks of a plugin's experts. Registered again, as when a notebook's cell runs again, it takes
    the place of what this process registered under its name; models that are built already keep what they have. Other
    processes, and the `tove` command, do not know it: each registers it for itself, or a plugin offers it.

    Args:
        spec: `factory`, `convert` and `family` may be functions of the notebook (`__main__:build` is the path of one).

    Returns:
        The offer; its qualified name is `in-process/NAME`.

    Raises:
        PluginError: it is no valid ExpertSpec, or an installed plugin offers an expert of that name.
    """
    if not isinstance(spec, ExpertSpec):
        raise PluginError(f"register() was given {type(spec).__name__}; wanted an ExpertSpec (contract api {API})")
    try:
        plugin = Registered(ExpertSpec.model_validate(spec.model_dump()))  # a changed copy of a spec was never checked
    except ValidationError as error:
        raise PluginError(describe(error)) from error
    offer = _accept_registered(registry(), plugin)
    REGISTERED[offer.spec.name] = plugin
    return offer


def experts() -> dict[str, Offer]:
    """Return every usable expert by the name that resolves to it, registered ones too. Imports no torch."""
    found = registry()
    return {name: found.find(name) for name in found.names()}


def installed() -> list[Source]:
    """Return every plugin that is installed, without importing any."""
    return [source for source, _ in sorted(_entry_points(), key=lambda found: found[0])]


def _entry_points() -> Iterable[tuple[Source, metadata.EntryPoint]]:
    # entry_points(), unlike distributions(), drops the twin that a leftover egg-info beside the sources would give.
    for entry_point in metadata.entry_points(group=GROUP):
        name = version = None
        # A half-removed distribution has entry points and no metadata: None, or FileNotFoundError in later Pythons.
        with suppress(FileNotFoundError):
            name, version = (entry_point.dist.name, entry_point.dist.version) if entry_point.dist else (None, None)
        yield Source(canonical(name or "unknown"), version or "0", entry_point.name), entry_point


def _accept(registry: Registry, source: Source, load: Callable[[], object], *, strict: bool) -> None:
    changed: list[str] = []
    try:
        if source.distribution == IN_PROCESS:
            raise PluginError(f"the distribution name {IN_PROCESS!r} stands for experts registered in a process")
        with contained() as changed:
            specs = read(load, source.entry_point)
        _refuse_twins(registry, source, specs)
    except (Exception, SystemExit) as error:
        if strict:
            raise PluginError(f"{source}: {type(error).__name__}: {error}") from error
        registry.failures[source] = error
    else:
        registry.offers += [Offer(spec, source) for spec in specs]
        if not specs:
            registry.empty.append(source)
    if changed:
        what = " and ".join(changed)
        registry.notes.append(f"{source} changed {what} when it was imported; put back, tell its author")


def _accept_registered(registry: Registry, plugin: Registered) -> Offer:
    """Take in a registered expert, in the place of an earlier one of its name.

    Raises:
        PluginError: an installed plugin offers the name.
    """
    (spec,) = read(lambda: plugin, plugin.spec.name)
    same = [offer for offer in registry.offers if offer.spec.name == spec.name]
    if others := [str(offer.source) for offer in same if offer.source.distribution != IN_PROCESS]:
        raise PluginError(
            f"an expert named {spec.name!r} is offered by {' and '.join(others)} already; give the spec another name"
        )
    offer = Offer(spec, _source(plugin))
    registry.offers = [one for one in registry.offers if one not in same] + [offer]
    return offer


def _source(plugin: Registered) -> Source:
    return Source(IN_PROCESS, plugin.version, plugin.spec.name)


def _refuse_twins(registry: Registry, source: Source, specs: Iterable[ExpertSpec]) -> None:
    # Names of one distribution are told apart by nothing else: a second one would make even dist/name ambiguous.
    taken = {offer.spec.name for offer in registry.offers if offer.source.distribution == source.distribution}
    if twice := sorted(taken & {spec.name for spec in specs}):
        raise PluginError(
            f"entry point {source.entry_point!r} offers {', '.join(twice)}, which another entry point of "
            f"{source.distribution} offers already; give each expert a name of its own"
        )


def _member(offer: Offer, text: str) -> ExpertSpec:
    """Return the spec of one member of an expert's family."""
    module, _, attribute = (offer.spec.family or "").partition(":")
    try:
        with redirect_stdout(sys.stderr):
            variant = getattr(importlib.import_module(module), attribute)(text)
        if not isinstance(variant, Variant):
            raise PluginError(f"it returned {type(variant).__name__}, wanted Variant")
        return offer.spec.member(variant)
    except (UnknownExpertError, ConfigError, WeightsError):
        raise  # the family's own answer to a name it does not know, or whose files it cannot reach
    except ValidationError as error:
        raise PluginError(f"{offer.qualified}:{text}: {describe(error)}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{offer.qualified}:{text}: {offer.spec.family} failed ({type(error).__name__}: {error}); "
            f"choose another name, or repair or reinstall its plugin"
        ) from error


def _names(text: str | None) -> set[str] | None:
    return None if text is None else {canonical(part.strip()) for part in text.split(",") if part.strip()}


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(close)}? " if close else ""

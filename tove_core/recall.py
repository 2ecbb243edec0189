"""Find a checkpoint's experts again, by who offered them when they were recorded. No torch.

Weights are held to their hash elsewhere. What an expert computes with them is its distribution's code, and no hash
says anything of that: so another distribution or variant is refused, and another version of a plugin is told.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from tove_core.errors import CheckpointError, UnknownExpertError
from tove_core.in_process import IN_PROCESS
from tove_core.plugins import OWN, Registry, Resolved
from tove_core.provenance import ExpertProvenance


def find_again(registry: Registry, key: str, known: ExpertProvenance) -> Resolved:
    """Return the expert that a checkpoint recorded, with the variant it recorded.

    Args:
        key: the name under which the model knows it, for the message.
        known: what was recorded.

    Raises:
        CheckpointError: it is not installed, or not in that variant; what is there is named.
        PluginError: its family cannot be asked for the variant.
    """
    try:
        found = registry.resolve(known.request)
    except UnknownExpertError as error:
        if known.distribution == IN_PROCESS:
            raise CheckpointError(
                f"expert {key!r} was registered in the process that saved this, and no plugin offers it; run "
                f"tove_core.register with its spec, named {known.name!r}{_variant(known)}, before loading"
            ) from error
        raise CheckpointError(
            f"expert {key!r} was recorded as {known.request} {known.version}, which is not installed "
            f"({_seen(registry, known)}); {_cure(known)}, or take it out with 'tove detach'"
        ) from error
    if found.variant != known.variant:
        raise CheckpointError(
            f"expert {key!r} was recorded as {known.request} {known.version}, without a variant, and "
            f"{found.offer.source} has it as {found.variant!r} only; {_cure(known)}"
        )
    return found


def other_versions(recorded: Mapping[str, ExpertProvenance], here: Mapping[str, ExpertProvenance]) -> list[str]:
    """Return a sentence for each expert that another version of its plugin offers now.

    Experts of tove-core itself are left out, as in the feature cache: each of its releases would name all of them, and
    none may change what an expert of it computes.
    """
    return [
        _other_version(key, was, now)
        for key, was in recorded.items()
        if (now := here.get(key)) and was.distribution == now.distribution != OWN and was.version != now.version
    ]


def _other_version(key: str, was: ExpertProvenance, now: ExpertProvenance) -> str:
    if was.distribution == IN_PROCESS:
        return (
            f"expert {key!r} was registered with another spec ({was.version}) than now ({now.version}), which may "
            f"compute something else; {_cure(was)} to have what was recorded"
        )
    return (
        f"expert {key!r} was recorded with {was.distribution} {was.version}, and {now.version} is installed, which may "
        f"compute something else; {_cure(was)} to have what was recorded"
    )


def warn_of_other_versions(
    recorded: Mapping[str, ExpertProvenance], here: Mapping[str, ExpertProvenance], *, stacklevel: int
) -> None:
    """Warn of what `other_versions` says; `stacklevel` counts from the caller."""
    for line in other_versions(recorded, here):
        warnings.warn(line, stacklevel=stacklevel + 1)


def _variant(known: ExpertProvenance) -> str:
    return f" with a variant {known.variant!r}" if known.variant else ""


def same_weights(known: ExpertProvenance) -> str:
    """Say how the weights are had that a plugin shipped when an expert of it was recorded."""
    return (
        f"it was recorded with {known.distribution} {known.version}: {_cure(known)}, or use a checkpoint that was "
        "saved with full=True"
    )


def _cure(known: ExpertProvenance) -> str:
    if known.distribution == IN_PROCESS:
        return "register the spec it was saved with"
    return f"install {known.distribution}=={known.version}"


def _seen(registry: Registry, known: ExpertProvenance) -> str:
    """Say what is there instead: the distribution without this expert or variant, broken or blocked, or others."""
    for source, error in sorted(registry.failures.items()):
        if source.distribution == known.distribution:
            return f"{source} failed to load, {type(error).__name__}: {' '.join(str(error).split())}"
    for source, variable in sorted(registry.blocked.items()):
        if source.distribution == known.distribution:
            return f"{source} is blocked by {variable}"
    same = [offer for offer in registry.offers if offer.spec.name == known.name]
    mine = [offer for offer in same if offer.source.distribution == known.distribution]
    if mine:
        return f"{mine[0].source} has no such variant, but {', '.join(sorted(mine[0].spec.variants)) or 'none'}"
    if same:
        return "there is " + ", ".join(f"{offer.qualified} {offer.source.version}" for offer in same) + ", another one"
    versions = {offer.source.version for offer in registry.offers if offer.source.distribution == known.distribution}
    if versions:
        return f"{known.distribution} {', '.join(sorted(versions))} does not offer it"
    return f"no installed plugin offers a {known.name!r}"

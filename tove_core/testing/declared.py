"""Checks of what an expert and its plugin declare: no code of the factory runs."""

from __future__ import annotations

import json
import re

from pydantic import ValidationError

from tove_core import plugins
from tove_core.errors import ToveError, WeightsError
from tove_core.hub.digest import sha256
from tove_core.hub.weights import locate
from tove_core.naming import NAME
from tove_core.offered import describe
from tove_core.spec import ExpertSpec, Weights
from tove_core.testing.definition import CheckFailed, NotApplicable, defines
from tove_core.testing.subject import Subject

_REPO = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@defines(
    "spec-valid",
    "declared",
    summary="is a valid spec made of plain data",
    cause="The spec was made in a way that skips validation, or `options` or `tiny` hold something that is not data, "
    "such as a dtype, a function or a Path.",
    cure="Build the spec with `ExpertSpec(...)`, and put only text, numbers, booleans, lists and mappings of them into "
    "`options`; the factory turns them into objects.",
)
def spec_valid(subject: Subject) -> str:
    """Write the spec as JSON and read it back."""
    try:
        text = subject.spec.model_dump_json()
        again = ExpertSpec.model_validate(json.loads(text))
    except ValidationError as error:
        raise CheckFailed(describe(error)) from error
    except (ValueError, TypeError) as error:  # pydantic's serialisation error is a ValueError
        raise CheckFailed(f"the spec cannot be written as JSON ({error})") from error
    if again.model_dump_json() != text:
        raise CheckFailed("the spec read back from JSON is another one; use plain data in options")
    return ""


@defines(
    "described",
    "declared",
    summary="says where its weights come from",
    cause="The spec has weights of a hub and neither `homepage` nor `citation`, so a user cannot find out what "
    "was trained on what.",
    cure="Give `homepage` (the project's or the model card's address) or `citation` (such as arXiv:2304.07193).",
)
def described(subject: Subject) -> str:
    """Look for a homepage or a citation."""
    spec = subject.spec
    if _weights(subject).repo is None:
        raise NotApplicable("its weights are its own package's")
    if not spec.homepage and not spec.citation:
        raise CheckFailed("neither homepage nor citation is given")
    return spec.citation or spec.homepage or ""


@defines(
    "entry-point-canonical",
    "declared",
    summary="is found under its own name by `build(experts=[...])`",
    cause="The entry point's name is not lower-case words joined by hyphens, its distribution has lost its metadata, "
    "or another distribution offers an expert of the same name.",
    cure="Name the entry point like the expert (`[project.entry-points.tove]`), install the plugin again, or choose a "
    "name that is free.",
)
def entry_point_canonical(subject: Subject) -> str:
    """Resolve the bare and the qualified name, and read the entry point's."""
    offer = _offer(subject)
    if offer.source.distribution == "unknown":
        raise CheckFailed("the distribution that offers it has no metadata")
    if not NAME.fullmatch(offer.source.entry_point):
        raise CheckFailed(f"the entry point is named {offer.source.entry_point!r}; wanted lower-case-words")
    try:
        found = plugins.registry().resolve(offer.spec.name).offer
    except ToveError as error:
        raise CheckFailed(str(error)) from error
    if found != offer:  # names of tove's own experts are reserved; everybody else's would be ambiguous
        raise NotApplicable(f"{offer.spec.name!r} finds {found.qualified}; this one is asked for as {offer.qualified}")
    return offer.qualified


@defines(
    "license-spdx",
    "declared",
    summary="names the licence of its weights by an SPDX identifier",
    cause="The licence is misspelt, or is a hub's own short form such as `apache-2.0` or `other`.",
    cure="Use the identifier of spdx.org/licenses, or `LicenseRef-Name` with `license_url` for one that has none.",
)
def license_spdx(subject: Subject) -> str:
    """Compare the licence with the list of SPDX that the packaging library carries."""
    weights = _weights(subject)
    try:
        from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
    except ImportError as error:
        raise NotApplicable("the installed packaging is older than 24.2 and has no list of licences") from error
    try:
        canonical = canonicalize_license_expression(weights.license)
    except InvalidLicenseExpression as error:
        raise CheckFailed(f"{weights.license!r} is not on the list of SPDX ({error})") from error
    if canonical != weights.license:
        raise CheckFailed(f"{weights.license!r} is written {canonical!r}")
    if "LicenseRef-" in canonical and weights.license_url is None:
        raise CheckFailed(f"{canonical!r} is a licence of its own, and license_url does not say where its text is")
    return canonical


@defines(
    "weights-pinned-or-lockable",
    "declared",
    summary="loads the same weights on every machine",
    cause="`revision` or `sha256` was made up, the repository's name is not `owner/name`, or the file inside the "
    "plugin's package is missing or is another one.",
    cure="Copy the commit and the hash from the hub, or leave both empty: the first download records them. For a "
    "file of your own package, give the `sha256` of the file as it is shipped.",
)
def weights_pinned(subject: Subject) -> str:
    """Look for invented hashes, and hash a file that the package ships."""
    weights = _weights(subject)
    for key in ("revision", "sha256"):
        value = getattr(weights, key)
        if value is not None and len(set(value)) < 4:
            raise CheckFailed(f"{key} {value[:12]}... is made up; leave it empty")
    if weights.repo is not None:
        if not _REPO.fullmatch(weights.repo):
            raise CheckFailed(f"repo {weights.repo!r} is not owner/name")
        return "pinned" if weights.revision and weights.sha256 else "not pinned: locked by each user's first download"
    try:
        path = locate(subject.spec, "pinned")
    except WeightsError as error:
        raise CheckFailed(str(error)) from error
    if weights.sha256 is None and path is not None:
        raise CheckFailed(f"package weights without a hash; it is sha256={sha256(path)!r}")
    return "pinned"


def _offer(subject: Subject) -> plugins.Offer:
    if subject.offer is None:
        raise NotApplicable("the spec was given by itself, not by the name of an installed expert")
    return subject.offer


def _weights(subject: Subject) -> Weights:
    if subject.spec.weights is None:
        raise NotApplicable("it has no weights")
    return subject.spec.weights

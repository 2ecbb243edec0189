"""Runs the checks of an expert, and weighs the results against the failures that were announced."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tove_core.errors import ConfigError
from tove_core.spec import ExpertSpec
from tove_core.testing.catalogue import CATALOGUE
from tove_core.testing.definition import CheckFailed, Definition, NotApplicable
from tove_core.testing.subject import Subject, subjects

Status = Literal["passed", "failed", "not applicable", "failed as expected", "expected to fail"]
"""expected to fail: a failure was announced and did not come, which counts as a failure."""

BAD: frozenset[Status] = frozenset({"failed", "expected to fail"})


@dataclass(frozen=True)
class Check:
    """One check of one expert, ready to run."""

    definition: Definition
    subject: Subject

    @property
    def id(self) -> str:
        """The check's name in the list, such as `params-exact`."""
        return self.definition.id

    @property
    def summary(self) -> str:
        """What a conforming expert does."""
        return self.definition.summary

    def run(self) -> str:
        """Return a note on what was measured, or nothing.

        Raises:
            CheckFailed: the expert does not conform.
            NotApplicable: there is nothing to check.
        """
        try:
            return self.definition.verdict(self.subject)
        except (CheckFailed, NotApplicable):
            raise
        except Exception as error:  # a plugin may raise anything, and a broken contract fails every check it touches
            raise CheckFailed(" ".join(f"{type(error).__name__}: {error}".split())) from error


@dataclass(frozen=True)
class Result:
    """What became of one check."""

    check: Check
    status: Status
    detail: str
    """What was measured, what was seen, or why the check does not apply."""
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it counts as conforming."""
        return self.status not in BAD


def checks(expert: str | ExpertSpec) -> Iterator[Check]:
    """Yield the checks of an expert: all of them for one variant, those of declaration and architecture for others.

    Args:
        expert: a requested name (`name`, `name:variant`, `distribution/name`), or a spec.

    Raises:
        UnknownExpertError: no installed plugin offers it.
        AmbiguousExpertError: several do.
    """
    for subject in subjects(expert):
        for definition in CATALOGUE:
            if subject.builds or definition.tier != "module":
                yield Check(definition, subject)


def run_checks(expert: str | ExpertSpec, expected_failures: Mapping[str, str] | None = None) -> Iterator[Result]:
    """Run an expert's checks, one after another.

    Args:
        expert: as for `checks`.
        expected_failures: reasons by id of checks that are known to fail; one that does not fail is `expected to fail`.

    Raises:
        ConfigError: an expected failure names no check, or gives no reason.
    """
    expected = announced(expected_failures)
    for check in checks(expert):
        yield weigh(check, expected.get(check.id))


def announced(expected_failures: Mapping[str, str] | None) -> dict[str, str]:
    """Return the expected failures if each names a check and gives a reason.

    Raises:
        ConfigError: one does not.
    """
    known = {definition.id for definition in CATALOGUE}
    for id, reason in (expected_failures or {}).items():
        if id not in known:
            raise ConfigError(
                f"there is no check {id!r} that could be expected to fail; checks: {', '.join(sorted(known))}"
            )
        if not reason.strip():
            raise ConfigError(f"check {id!r} is expected to fail without a reason; say why")
    return dict(expected_failures or {})


def weigh(check: Check, reason: str | None) -> Result:
    """Run one check; `reason` is that of its expected failure, if one was announced."""
    start = time.monotonic()
    status: Status = "passed"
    try:
        detail = check.run()
    except NotApplicable as why:
        status, detail = "not applicable", str(why)
    except CheckFailed as error:
        status, detail = "failed", str(error)
    if reason is not None:
        found = f"{status}{f': {detail}' if detail else ''}"
        if status == "failed":
            status, detail = "failed as expected", f"{reason} ({detail})"
        else:
            status, detail = "expected to fail", f"({reason}) but {found}; remove the expectation"
    return Result(check, status, detail, time.monotonic() - start)


def count(results: Iterable[Result]) -> str:
    """Return a line such as `27 checks: 25 passed, 1 failed, 1 not applicable`."""
    found = Counter(result.status for result in results)
    order: tuple[Status, ...] = ("passed", "failed", "expected to fail", "failed as expected", "not applicable")
    parts = [f"{found[status]} {status}" for status in order if found[status]]
    return f"{found.total()} checks: {', '.join(parts) or 'none'}"

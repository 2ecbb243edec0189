"""Runs the checks of an expert, and weighs the results against the failures that were announced."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Literal

from tove_core.errors import ConfigError, ContractError
from tove_core.spec import ExpertSpec
from tove_core.testing.bench import bench
from tove_core.testing.catalogue import CATALOGUE
from tove_core.testing.definition import CheckFailed, Definition, ForwardFailed, NoMeta, NotApplicable, NotRun, one_line
from tove_core.testing.subject import Subject, subjects
from tove_core.testing.watch import undone

Status = Literal["passed", "failed", "not run", "not applicable", "failed as expected", "expected to fail"]
"""not run: what another check tells of kept this one from looking, which conforms as little as a failure does.
expected to fail: a failure was announced and did not come, which counts as a failure."""

BAD: frozenset[Status] = frozenset({"failed", "not run", "expected to fail"})


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
            NotRun: it cannot be built or run for a reason that another check tells; a `CheckFailed` too.
            NotApplicable: there is nothing to check.
        """
        try:
            # What the expert prints goes elsewhere, since the results of checks may be JSON.
            with redirect_stdout(sys.stderr), undone():
                return self.definition.verdict(self.subject)
        except (CheckFailed, NotApplicable):
            raise
        except Exception as error:  # a plugin may raise anything
            if not self._owns(error) and (fault := self._fault(error)) is not None:
                raise NotRun(one_line(fault)) from error
            raise CheckFailed(one_line(error)) from error

    def _owns(self, error: Exception) -> bool:
        kind = (
            "forward" if isinstance(error, ForwardFailed) else error.about if isinstance(error, ContractError) else ""
        )
        return kind in self.definition.owns

    def _fault(self, error: Exception) -> Exception | None:
        """Return what is wrong whatever this check does; None: it failed by what the check itself did."""
        return bench(self.subject).fault() or (error if isinstance(error, NoMeta) else None)


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


def run_checks(*experts: str | ExpertSpec, expected_failures: Mapping[str, str] | None = None) -> Iterator[Result]:
    """Run the checks of experts, one after another.

    Args:
        experts: as for `checks`.
        expected_failures: reasons by id of checks that are known to fail, for every expert given (`bf16-close`) or for
            one (`dinov2:large/bf16-close`). One that does not fail counts as a failure itself.

    Raises:
        ConfigError: an expected failure names no check of these experts, or gives no reason.
        UnknownExpertError: no installed plugin offers one of the experts.
    """
    for check, reason in announced([check for expert in experts for check in checks(expert)], expected_failures):
        yield weigh(check, reason)


def announced(found: Sequence[Check], expected_failures: Mapping[str, str] | None) -> list[tuple[Check, str | None]]:
    """Return each check with the reason why it is expected to fail, None where it is not.

    Raises:
        ConfigError: an expected failure names none of the checks, or gives no reason.
    """
    expected = dict(expected_failures or {})
    for key, reason in expected.items():
        if not any(key in _keys(check) for check in found):
            raise ConfigError(
                f"there is no check {key!r} that could be expected to fail; give ID or EXPERT/ID, with one of the ids "
                f"{', '.join(sorted({check.id for check in found}))}"
            )
        if not reason.strip():
            raise ConfigError(f"check {key!r} is expected to fail without a reason; say why")
    return [(check, next((expected[key] for key in _keys(check) if key in expected), None)) for check in found]


def _keys(check: Check) -> list[str]:
    """Return the names that mean a check, the narrowest first: of a variant, of an expert, of all experts.

    An expert that is asked for as `distribution/name` may also be meant by its bare name.
    """
    name = check.subject.name
    bare = name.rpartition("/")[2] if check.subject.offer else name
    names = [name, bare, name.partition(":")[0], bare.partition(":")[0]]
    return [*(f"{one}/{check.id}" for one in dict.fromkeys(names)), check.id]


def weigh(check: Check, reason: str | None) -> Result:
    """Run one check; `reason` is that of its expected failure, if one was announced."""
    start = time.monotonic()
    status: Status = "passed"
    try:
        detail = check.run()
    except NotApplicable as why:
        status, detail = "not applicable", str(why)
    except NotRun as why:
        status, detail = "not run", str(why)
    except CheckFailed as error:
        status, detail = "failed", str(error)
    if reason is not None and status != "not run":
        found = f"{status}{f': {detail}' if detail else ''}"
        if status == "failed":
            status, detail = "failed as expected", f"{reason} ({detail})"
        else:
            status, detail = "expected to fail", f"({reason}) but {found}; remove the expectation"
    return Result(check, status, detail, time.monotonic() - start)


def count(results: Iterable[Result]) -> str:
    """Return a line such as `29 checks: 27 passed, 1 failed, 1 not applicable`."""
    found = Counter(result.status for result in results)
    order: tuple[Status, ...] = (
        "passed",
        "failed",
        "not run",
        "expected to fail",
        "failed as expected",
        "not applicable",
    )
    parts = [f"{found[status]} {status}" for status in order if found[status]]
    return f"{found.total()} checks: {', '.join(parts) or 'none'}"

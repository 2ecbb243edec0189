"""The same list of checks as pytest parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tove_core.spec import ExpertSpec
from tove_core.testing.run import Check, announced, checks, weigh

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Conformance:
    """A check as a test: call it, and pytest hears of the result; it returns what was measured, or nothing."""

    check: Check
    reason: str | None
    """Why it is expected to fail, if it is."""

    def __call__(self) -> str:
        """Run the check: a failure fails the test, a check that does not apply skips it with its reason."""
        import pytest

        __tracebackhide__ = True
        result = weigh(self.check, self.reason)
        if not result.ok:
            one = self.check.definition
            advice = "" if result.status == "not run" else f"\ncause: {one.cause}\ncure: {one.cure}"
            pytest.fail(f"{self.check.subject.name} {result.status}: {one.id}: {result.detail}{advice}", pytrace=False)
        if result.status == "not applicable":
            pytest.skip(f"not applicable: {result.detail}")
        if result.status == "failed as expected":
            pytest.xfail(result.detail)
        return result.detail


def parametrize_with_checks(
    *experts: str | ExpertSpec, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Decorate a test with one parameter `check` per check; its body is `check()`.

    Args:
        experts: names of installed experts, or specs.
        expected_failures: as for `run_checks`; one that passes fails the test.

    Raises:
        ConfigError: an expected failure names no check of these experts, or gives no reason.
        UnknownExpertError: no installed plugin offers one of the experts.
    """
    import pytest

    found = announced([check for expert in experts for check in checks(expert)], expected_failures)
    return pytest.mark.parametrize(
        "check",
        [Conformance(check, reason) for check, reason in found],
        ids=[f"{check.subject.name}-{check.id}" for check, _ in found],
    )

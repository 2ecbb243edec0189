"""The conformance checks of tove, one test each."""

from tove_core.testing import parametrize_with_checks


@parametrize_with_checks(
    "tove-expert-sam/sam",
    expected_failures={"entry-point-canonical": "tove has an expert of this name itself; this one is asked for in full"},
)
def test_conforms(check):
    check()

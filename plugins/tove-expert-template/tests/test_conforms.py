"""The conformance checks of tove, one test each."""

from tove_core.testing import parametrize_with_checks


@parametrize_with_checks("tove-expert-template/template")
def test_conforms(check):
    check()

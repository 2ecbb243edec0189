"""Every expert that comes with tove conforms; a failure that cannot be helped is announced here, with its reason."""

from __future__ import annotations

import pytest

from tove_core import plugins
from tove_core.testing import parametrize_with_checks

EXPECTED: dict[str, str] = {}
OWN = sorted(o.spec.name for o in plugins.registry().offers if o.source.distribution == plugins.OWN)


@pytest.mark.slow
@parametrize_with_checks(*OWN, expected_failures=EXPECTED)
def test_a_built_in_conforms(check):
    check()

"""Every expert that comes with tove conforms; a failure that cannot be helped is announced here, with its reason."""

from __future__ import annotations

import pytest

from tove_core import plugins
from tove_core.testing import parametrize_with_checks
from tove_experts.timm_variants import BUILD

EXPECTED: dict[str, str] = {}
OWN = sorted(o.spec.name for o in plugins.registry().offers if o.source.distribution == plugins.OWN)


@pytest.mark.slow
@parametrize_with_checks(*OWN, expected_failures=EXPECTED)
def test_a_built_in_conforms(check):
    said, spec = check(), check.check.subject.spec
    if spec.factory == BUILD and check.check.id == "flops-within-5-percent":
        assert said == f"flops={spec.cost.flops:_}", "timm's figures are exact"

from __future__ import annotations

import pytest

import tove_core
from tove_core.errors import UnknownExpertError


def test_a_misspelt_expert_is_told_before_anything_is_fetched(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnknownExpertError, match="did you mean dinov2"):
        tove_core.build(experts=["dinov22"], clip="hf-hub:nobody/nothing")

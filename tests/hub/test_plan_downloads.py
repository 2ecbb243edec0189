from __future__ import annotations

import json
from typing import Any

import pytest

import tove_core
from tove_core.hub.lock import Lock

A = "a" * 40
LLAMA = {"model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
         "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": 310, "dtype": "bfloat16"}  # fmt: skip
VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 40}
TEXT = {"context_length": 9, "vocab_size": 61, "width": 16, "heads": 2, "layers": 1}
CLIP = {"model_cfg": {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT}, "preprocess_cfg": {}}


@pytest.fixture
def models(hub: Any) -> Any:
    """Two repositories whose weights must not be asked for."""
    hub.commit("owner/language", A, {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"never"})
    hub.commit(
        "owner/clip", A, {"open_clip_config.json": json.dumps(CLIP).encode(), "open_clip_model.safetensors": b"-"}
    )
    return hub


def test_planning_fetches_configurations_and_pins_them_and_no_weights(models: Any) -> None:
    planned = tove_core.plan([], clip="hf-hub:owner/clip", decoder="owner/language")
    clip, decoder = planned.parts
    assert models.requests and not [asked for asked in models.requests if "safetensors" in asked]
    assert Lock().pins() == {"owner/clip": A, "owner/language": A}
    assert clip.download.value == 4 * clip.params.value and not clip.download.exact
    projector = 32 * 24 + 24 + 24 * 24 + 24
    assert decoder.download.value == 2 * (decoder.params.value - projector) and "its dtype" in decoder.download.how
    models.requests.clear()
    assert tove_core.plan([], clip="hf-hub:owner/clip", decoder="owner/language").parts == planned.parts
    assert not [asked for asked in models.requests if asked.startswith("GET")]


def test_offline_a_plan_uses_what_was_fetched_and_says_what_was_not(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tove_core.plan([], clip="hf-hub:owner/clip", decoder=None)
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    again = tove_core.plan([], clip="hf-hub:owner/clip", decoder="owner/language")
    assert again.parts[0] == known.parts[0]
    assert again.parts[1].params.value is None and "not in the local cache" in again.parts[1].params.how

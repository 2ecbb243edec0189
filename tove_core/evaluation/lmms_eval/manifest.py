"""Tells lmms-eval of the model named `tove`; it finds this by the entry point group `lmms_eval.models`."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]


def models() -> ModelManifest:
    """Return what lmms-eval needs to know of the model; nothing heavy is imported until it is asked for.

    Simple, not chat: only simple models get requests that score choices, and the prompt is the checkpoint's own
    template's affair.
    """
    return ModelManifest(model_id="tove", simple_class_path="tove_core.evaluation.lmms_eval.model.Tove")

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    PreTrainedModel,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

from tove_core import RegionBatch
from tove_core.hub.load import import_function, load_expert
from tove_core.spec import BuildContext, ExpertSpec
from tove_experts.coco import COCO_80, COCO_91
from tove_experts.detr import DETR
from tove_experts.rt_detr import RT_DETR

TINY_DETR = (DETR.tiny or {})["config"]
TINY_RT = (RT_DETR.tiny or {})["config"]


def tiny(spec: ExpertSpec, config: dict[str, Any], **options: Any) -> ExpertSpec:
    """The expert at a tiny configuration; the default variant's weights and everything else stay."""
    plain = spec.variant()
    return plain.model_copy(update={"options": plain.options | {"config": config} | options, "input": plain.tiny_input})


def enlarge(model: PreTrainedModel) -> PreTrainedModel:
    """Make boxes and labels differ from query to query."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) / parameter.shape[-1] ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(3)
    return model.eval()


def detr() -> PreTrainedModel:
    torch.manual_seed(0)
    return enlarge(DetrForObjectDetection(DetrConfig(num_labels=91, **TINY_DETR)))


def rt_detr() -> PreTrainedModel:
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"], **TINY_RT["backbone_config"])
    config = RTDetrV2Config(num_labels=80, **{**TINY_RT, "backbone_config": backbone})
    return enlarge(RTDetrV2ForObjectDetection(config))


CASES = {
    "detr": (DETR, TINY_DETR, detr, DetrImageProcessor, COCO_91),
    "rt-detr": (RT_DETR, TINY_RT, rt_detr, RTDetrImageProcessor, COCO_80),
}


@pytest.fixture(params=list(CASES))
def case(request: Any) -> tuple[Any, ...]:
    return CASES[request.param]


def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))


def kept(found: RegionBatch, image: int) -> list[tuple[str, float, list[float]]]:
    """Label, score and box of the valid regions of an image, best first."""
    rows = zip(found.text[image], found.scores[image].tolist(), found.boxes[image].tolist(), strict=True)
    return [row for row, ok in zip(rows, found.valid[image].tolist(), strict=True) if ok]


def test_weights_saved_by_the_library_give_what_its_processor_gives(case: tuple[Any, ...], tmp_path: Path) -> None:
    spec, config, build, processor, names = case
    model = build()
    model.save_pretrained(tmp_path)
    threshold = 0.03
    expert, digest = load_expert(tiny(spec, config, threshold=threshold), name="mine", weights=tmp_path)
    found = expert(pixels())["objects"]
    with torch.no_grad():
        out = model(pixel_values=pixels())
    expected = processor().post_process_object_detection(out, threshold=threshold, target_sizes=[(1, 1)] * 2)
    assert digest is not None
    for image, one in enumerate(expected):
        rows = zip(one["labels"].tolist(), one["scores"].tolist(), one["boxes"].clamp(0, 1).tolist(), strict=True)
        wanted = sorted(((names[label], s, b) for label, s, b in rows if names[label]), key=lambda row: -row[1])
        # The processor keeps as many as there are queries, which here are fewer than the expert's limit.
        got = kept(found, image)[: out.logits.shape[1]]
        assert len(wanted) >= 3 and [row[0] for row in got] == [row[0] for row in wanted]
        torch.testing.assert_close([row[1:] for row in got], [row[1:] for row in wanted], rtol=1e-5, atol=1e-5)


def test_scores_fall_and_a_high_threshold_leaves_nothing(case: tuple[Any, ...]) -> None:
    spec, config, *_ = case
    expert, _ = load_expert(tiny(spec, config, threshold=1.0), name="mine", weights="random")
    found = expert(pixels())["objects"]
    assert not found.valid.any() and all(word == "" for row in found.text for word in row)
    low, _ = load_expert(tiny(spec, config, threshold=0.0), name="mine", weights="random")
    scores = low(pixels())["objects"].scores
    assert (scores.diff(dim=1) <= 0).all() and scores.shape[1] <= 100


def test_categories_are_those_torchvision_lists() -> None:
    from torchvision.models._meta import _COCO_CATEGORIES

    theirs = ["" if name in ("__background__", "N/A") else name for name in _COCO_CATEGORIES]
    assert list(COCO_91) == theirs and len(COCO_80) == 80


def test_preprocessing_is_what_the_processors_declare() -> None:
    mine, theirs = DETR.input, DetrImageProcessor()
    assert (list(mine.mean), list(mine.std)) == (list(theirs.image_mean), list(theirs.image_std))
    assert theirs.do_normalize and theirs.do_rescale and theirs.resample == 2 and mine.interpolation == "bilinear"
    assert mine.range == (0, 1) and theirs.size["shortest_edge"] == mine.size[0]
    mine, theirs = RT_DETR.input, RTDetrImageProcessor()
    assert not theirs.do_normalize and mine.mean == (0, 0, 0) and mine.std == (1, 1, 1)
    assert theirs.resample == 2 and mine.interpolation == "bilinear"
    assert (theirs.size["height"], theirs.size["width"]) == mine.size


# Millions of parameters: DETR arXiv:2005.12872, table 1; RT-DETRv2 the table of its repository's README.
PUBLISHED = {
    "detr:r50": 41, "detr:r50-dc5": 41, "detr:r101": 60, "detr:r101-dc5": 60,
    "rt-detr:r18": 20, "rt-detr:r34": 31, "rt-detr:r50": 42, "rt-detr:r101": 76,
}  # fmt: skip
# Megabytes of the repositories' model.safetensors, as their file lists show them: parameters and statistics in float32.
FILES = {"detr:r50": 167, "rt-detr:r34": 126, "rt-detr:r50": 172}


def on_meta(spec: ExpertSpec) -> nn.Module:
    with torch.device("meta"):
        return import_function(spec.factory, spec.name)(BuildContext(spec, spec.options))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configuration_has_the_published_size(name: str) -> None:
    expert, _, variant = name.partition(":")
    spec = {"detr": DETR, "rt-detr": RT_DETR}[expert].variant(variant)
    module = on_meta(spec)
    params = sum(p.numel() for p in module.parameters())
    assert spec.cost is not None and params == spec.cost.params
    assert abs(params / 1e6 - PUBLISHED[name]) < 1
    if name in FILES:
        stored = {id(t): t.numel() * 4 for t in module.state_dict(keep_vars=True).values()}
        assert abs(sum(stored.values()) / 1e6 - FILES[name]) < 0.6


def test_dilation_doubles_the_resolution_of_the_last_stage() -> None:
    strides = {}
    for dilation in (False, True):
        spec = tiny(DETR, TINY_DETR | {"backbone": "resnet26", "dilation": dilation})
        module: Any = import_function(spec.factory, "detr")(BuildContext(spec, spec.options)).eval()
        with torch.no_grad():
            hidden = module.model(pixel_values=pixels()).encoder_last_hidden_state
        strides[dilation] = hidden.shape[1]
    assert strides == {False: 2 * 3, True: 4 * 6}

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor

from tove_core.hub.load import import_function, load_expert
from tove_core.spec import BuildContext, ExpertSpec
from tove_experts.owlv2 import OWLV2

CONFIG: dict[str, Any] = (OWLV2.tiny or {})["config"]
QUERIES = ("cat", "remote control", "naïve café")


def tiny(**options: Any) -> ExpertSpec:
    plain = OWLV2.variant()
    given = plain.options | {"config": CONFIG, "queries": QUERIES, "threshold": 0.3} | options
    return plain.model_copy(update={"options": given, "input": plain.tiny_input})


def model() -> Owlv2ForObjectDetection:
    torch.manual_seed(0)
    built = Owlv2ForObjectDetection(Owlv2Config(**CONFIG)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return built


def pixels() -> Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))


def queries() -> tuple[Tensor, Tensor]:
    """Token ids and mask as OWLv2's own tokenizer pads them: the end token follows the words, zeros fill up."""
    from open_clip.tokenizer import SimpleTokenizer

    words = SimpleTokenizer()
    rows = [[49406, *words.encode(f"a photo of a {name}"), 49407] for name in QUERIES]
    ids = torch.tensor([row + [0] * (16 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (16 - len(row)) for row in rows])
    return ids, mask


def test_weights_saved_by_the_library_give_what_its_processor_gives(tmp_path: Path) -> None:
    library = model()
    library.save_pretrained(tmp_path)
    expert, _ = load_expert(tiny(), name="mine", weights=tmp_path)
    found = expert(pixels())["objects"]
    ids, mask = queries()
    with torch.no_grad():
        out = library(pixel_values=pixels(), input_ids=ids.repeat(2, 1), attention_mask=mask.repeat(2, 1))
    expected = Owlv2ImageProcessor().post_process_object_detection(out, threshold=0.3, target_sizes=[(1, 1)] * 2)
    labels = set()
    for image, one in enumerate(expected):
        order = one["scores"].sort(descending=True, stable=True).indices
        assert len(order) >= 5
        count = int(found.valid[image].sum())
        assert [QUERIES[i] for i in one["labels"][order].tolist()] == found.text[image][:count]
        torch.testing.assert_close(found.scores[image, :count], one["scores"][order], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.boxes[image, :count], one["boxes"][order].clamp(0, 1), rtol=1e-5, atol=1e-5)
        labels |= set(found.text[image])
    assert len(labels - {""}) > 1


def test_queries_are_embedded_once_until_weights_or_precision_change(tmp_path: Path) -> None:
    expert, _ = load_expert(tiny(), name="mine", weights="random")
    module: Any = expert.module
    expert(pixels())
    first = module.queries()
    expert(pixels())
    assert module.queries() is first
    model().save_pretrained(tmp_path)
    other, _ = load_expert(tiny(), name="mine", weights=tmp_path)
    module.load_state_dict(other.module.state_dict())
    with torch.no_grad():
        assert not torch.equal(module.queries(), first)
        assert module.to(torch.bfloat16).queries().dtype == torch.bfloat16


def test_a_copy_has_queries_of_its_own() -> None:
    expert, _ = load_expert(tiny(), name="mine", weights="random")
    expert(pixels())
    module: Any = copy.deepcopy(expert).module
    with torch.no_grad():
        module.model.owlv2.text_projection.weight.neg_()
        module.load_state_dict(module.state_dict())
        torch.testing.assert_close(module.queries(), -expert.module.queries())  # type: ignore[operator]


def test_files_of_older_libraries_with_tables_of_positions_are_read(tmp_path: Path) -> None:
    convert = import_function(OWLV2.convert or "", "owlv2")
    state = {"owlv2.logit_scale": torch.ones(()), "owlv2.text_model.embeddings.position_ids": torch.arange(16)}
    assert list(convert(state)) == ["model.owlv2.logit_scale"]


def test_preprocessing_is_what_the_processor_declares() -> None:
    mine, theirs = OWLV2.input, Owlv2ImageProcessor()
    assert (list(mine.mean), list(mine.std)) == (list(theirs.image_mean), list(theirs.image_std))
    assert theirs.resample == 2 and mine.interpolation == "bilinear" and theirs.do_rescale and theirs.do_normalize
    assert (theirs.size["height"], theirs.size["width"]) == mine.size


# Megabytes of google/owlv2-base-patch16-ensemble's model.safetensors, as its file list shows them.
@pytest.mark.parametrize(("variant", "megabytes"), [("base", 620), ("large", None)])
def test_the_published_configuration_has_the_published_size(variant: str, megabytes: int | None) -> None:
    spec = OWLV2.variant(variant)
    with torch.device("meta"):
        module = import_function(spec.factory, "owlv2")(BuildContext(spec, spec.options))
    params = sum(p.numel() for p in module.parameters())
    assert spec.cost is not None and params == spec.cost.params
    assert megabytes is None or abs(params * 4 / 1e6 - megabytes) < 0.5
    patches = (spec.input.size[0] // (spec.input.patch or 1)) ** 2
    assert module.model.box_bias.shape == (patches, 4)

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention
from transformers.models.pp_ocrv5_server_det.image_processing_pp_ocrv5_server_det import PPOCRV5ServerDetImageProcessor
from transformers.models.pp_ocrv5_server_rec.image_processing_pp_ocrv5_server_rec import PPOCRV5ServerRecImageProcessor

from tove_core.hub.load import load_expert
from tove_core.spec import BuildContext, ExpertSpec
from tove_experts.adapters import pp_ocr
from tove_experts.adapters.pp_ocr import build, characters, cut, decode
from tove_experts.adapters.text_lines import find_lines
from tove_experts.pp_ocr import PP_OCR


def tiny(**options: Any) -> ExpertSpec:
    given = PP_OCR.options | (PP_OCR.tiny or {}) | options
    return PP_OCR.model_copy(update={"options": given, "input": PP_OCR.tiny_input})


def networks() -> tuple[PreTrainedModel, PreTrainedModel]:
    """A detector and a reader whose answers vary from place to place."""
    torch.manual_seed(4)
    module: Any = build(BuildContext(tiny(), tiny().options)).eval()
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(0.1)
        module.reader.head.head.weight.mul_(20)
    return module.detector, module.reader


def pixels() -> Tensor:
    noise = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(2))
    return F.interpolate(noise, size=(96, 160), mode="bilinear")


def test_two_files_saved_by_the_library_give_what_its_networks_and_processor_give(tmp_path: Path) -> None:
    detector, reader = networks()
    detector.save_pretrained(tmp_path / "detector")
    reader.save_pretrained(tmp_path / "reader")
    (tmp_path / "detector" / "model.safetensors").rename(tmp_path / "pp-ocr.safetensors")
    (tmp_path / "reader" / "model.safetensors").rename(tmp_path / "pp-ocr-reader.safetensors")
    with torch.no_grad():
        # The processor normalises in its order of channels and then turns them round.
        found = detector(pixel_values=pixels()[:, [2, 1, 0]]).last_hidden_state[:, 0]
    options = {"threshold": found.quantile(0.8).item(), "box_threshold": 0.0, "unclip": 1.0}
    expert, digest = load_expert(tiny(**options), name="mine", weights=tmp_path)
    got = expert(pixels())["lines"]
    lines = find_lines(found, limit=64, **options)
    seen = (
        pixels() * torch.tensor(PP_OCR.input.std)[:, None, None] + torch.tensor(PP_OCR.input.mean)[:, None, None] - 0.5
    ) / 0.5
    processor = PPOCRV5ServerRecImageProcessor(character_list=["blank", *characters(300)[1:]])
    count = 0
    for image in range(2):
        for slot in range(int(lines.valid[image].sum())):
            box = lines.boxes[image, slot]
            wide, high = (box[2:] - box[:2]).tolist()
            turned = high >= 1.5 * wide
            columns = torch.tensor([float(-(-48 * (high / wide if turned else wide / high) // 1))])
            crop = cut(seen, torch.tensor([image]), box[None], columns, 320, turned=turned)
            with torch.no_grad():
                (said,) = processor.post_process_text_recognition(reader(pixel_values=crop))
            if not said["text"]:
                assert not got.valid[image, slot]
                continue
            count += 1
            assert got.text[image][slot] == said["text"]
            torch.testing.assert_close(got.scores[image, slot].item(), lines.scores[image, slot].item() * said["score"])
            torch.testing.assert_close(got.boxes[image, slot], box / torch.tensor([160, 96, 160, 96]))
    assert count >= 4 and len({word for row in got.text for word in row}) > 3
    assert digest is not None and len(digest) == 64


def test_a_line_is_cut_out_and_resampled_without_distortion() -> None:
    image = pixels()[:1]
    crop = cut(
        image, torch.tensor([0]), torch.tensor([[16.0, 8.0, 64.0, 32.0]]), torch.tensor([96.0]), 320, turned=False
    )
    expected = F.interpolate(image[:, :, 8:32, 16:64], size=(48, 96), mode="bilinear")
    # Away from the crop's own border, where interpolation of the cut has no neighbours.
    torch.testing.assert_close(crop[..., 2:-2, 2:94], expected[..., 2:-2, 2:94], rtol=1e-4, atol=1e-4)
    assert crop.shape == (1, 3, 48, 320) and crop[..., 96:].abs().sum() == 0


def test_a_line_that_runs_down_is_turned() -> None:
    image = pixels()[:1]
    down = cut(
        image, torch.tensor([0]), torch.tensor([[16.0, 8.0, 40.0, 56.0]]), torch.tensor([96.0]), 320, turned=True
    )
    expected = F.interpolate(image[:, :, 8:56, 16:40], size=(96, 48), mode="bilinear").rot90(1, (2, 3))
    torch.testing.assert_close(down[..., 2:-2, 2:94], expected[..., 2:-2, 2:94], rtol=1e-4, atol=1e-4)
    assert down[..., 96:].abs().sum() == 0


def test_decoding_is_the_librarys() -> None:
    draw = torch.Generator().manual_seed(5)
    chances = (torch.randn(7, 12, 4, generator=draw) * 3).softmax(-1)
    chances[3] = torch.tensor([0.7, 0.1, 0.1, 0.1])
    said = PPOCRV5ServerRecImageProcessor(character_list=list(characters(4))).post_process_text_recognition(
        BaseModelOutputWithNoAttention(last_hidden_state=chances)
    )
    words, sure = decode(chances)
    assert words == [one["text"] for one in said] and words[3] == "" and sure[3] == 0
    kept = [i for i in range(7) if i != 3]
    torch.testing.assert_close(sure[kept], torch.tensor([said[i]["score"] for i in kept]))


def test_what_a_line_says_does_not_depend_on_other_lines_and_images() -> None:
    spec = tiny(threshold=0.45, box_threshold=0.0)
    expert, _ = load_expert(spec, name="mine", weights="random")
    together = expert(pixels())["lines"]
    assert together.boxes.shape[1] > 0
    for image in range(2):
        alone = expert(pixels()[image : image + 1])["lines"]
        count = alone.boxes.shape[1]
        assert alone.text[0] == together.text[image][:count]
        torch.testing.assert_close(alone.boxes[0], together.boxes[image, :count], rtol=1e-4, atol=1e-5)


def test_an_image_without_text_has_no_lines() -> None:
    expert, _ = load_expert(tiny(threshold=1.0), name="mine", weights="random")
    found = expert(pixels())["lines"]
    assert found.boxes.shape == (2, 0, 4) and found.text == [[], []]


def test_the_dictionary_is_the_published_one() -> None:
    # 18,383 characters; sha256 as PP-OCRv5's packagers list it: d1979e9f...42af1b.
    text = (Path(pp_ocr.__file__).parent / "pp_ocrv5.txt").read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    assert digest.startswith("d1979e9f") and digest.endswith("42af1b")
    known = characters(18_385)
    assert len(known) == 18_385 and (known[0], known[1], known[-1]) == ("", "\u3000", " ")
    assert len(set(known)) == 18_385


def test_preprocessing_is_what_the_processors_declare() -> None:
    mine, theirs = PP_OCR.input, PPOCRV5ServerDetImageProcessor()
    assert (list(mine.mean), list(mine.std)) == (list(theirs.image_mean), list(theirs.image_std))
    assert theirs.resample == 2 and mine.interpolation == "bilinear"
    assert theirs.limit_side_len == mine.size[0] == mine.size[1]
    theirs = PPOCRV5ServerRecImageProcessor()
    assert list(theirs.image_mean) == list(theirs.image_std) == [0.5] * 3
    assert (theirs.size["height"], theirs.size["width"]) == (pp_ocr.HEIGHT, pp_ocr.NARROWEST)


def test_the_published_configuration_has_the_published_size() -> None:
    with torch.device("meta"):
        module: Any = build(BuildContext(PP_OCR, PP_OCR.options))
    assert PP_OCR.cost is not None and sum(p.numel() for p in module.parameters()) == PP_OCR.cost.params
    # Bytes of both networks' files in the PyTorch conversion johaness14/PP-OCR-PyTorch: tensors and some names.
    for network, published in ((module.detector, 14_533_869), (module.reader, 31_351_269)):
        stored = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        assert 0 < published - stored < 0.03 * published
    assert module.reader.head.head.out_features == 18_385


def test_the_readers_columns_follow_its_strides() -> None:
    with torch.device("meta"):
        module: Any = build(BuildContext(PP_OCR, PP_OCR.options))
    out = module.reader.eval()(pixel_values=torch.zeros(1, 3, 48, 384, device="meta"))
    assert out.last_hidden_state.shape == (1, 384 // 8, 18_385)


def test_files_without_counters_are_read() -> None:
    converted = pp_ocr.convert({"head.norm.running_mean": torch.ones(3), "reader.a.running_mean": torch.ones(2)})
    counters = [key for key in converted if key.endswith("num_batches_tracked")]
    assert counters == ["detector.head.norm.num_batches_tracked", "reader.a.num_batches_tracked"]


@pytest.mark.parametrize("missing", ["pp-ocr", "pp-ocr-reader"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    from safetensors.torch import save_file

    from tove_core.errors import WeightsError

    for name in {"pp-ocr", "pp-ocr-reader"} - {missing}:
        save_file({"a": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=f"no weights for expert '{missing}'"):
        load_expert(tiny(), name="mine", weights=tmp_path)

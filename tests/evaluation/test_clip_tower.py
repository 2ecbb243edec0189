from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tove_core.config import ClipConfig
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.clip_report import report_tower
from tove_core.evaluation.clip_tower import embed_images, retrieve, score_with_clip, zero_shot
from tove_core.export.open_clip_dir import write_open_clip
from tove_core.tower import load_tower

CLASSES = ["red", "green", "blue", "a very long name of a class", "black"]


@pytest.fixture(scope="module")
def tower(toy: Any) -> Any:
    return load_tower(ClipConfig(name=toy.reading_clip))


@pytest.fixture(scope="module")
def samples(toy: Any) -> list[Sample]:
    pictures = toy.pictures(11)
    return [Sample(f"s{n}", image, None, (CLASSES[n % 5], f"a {n}")) for n, image in enumerate(pictures)]


def test_zero_shot_of_a_tower_is_that_of_open_clip_with_its_own_transform(
    tower: Any, samples: list[Sample], toy: Any
) -> None:
    import open_clip

    name = toy.reading_clip
    model, transform = open_clip.create_model_from_pretrained(name)
    templates = ["a photo of a {}.", "{}!"]
    classifier = open_clip.build_zero_shot_classifier(model.eval(), open_clip.get_tokenizer(name), CLASSES, templates)
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(sample.image).convert("RGB")) for sample in samples])
        features = model.encode_image(pixels, normalize=True)
        best = (features @ classifier).argmax(dim=1).tolist()
    top = zero_shot(tower, samples, CLASSES, templates=templates)
    assert list(top[0].samples.values()) == [float(label == n % 5) for n, label in enumerate(best)]
    assert top[1].value == 1, "five classes are all among the first five"
    ours, _ = embed_images(tower, samples)
    assert torch.allclose(torch.nn.functional.normalize(ours, dim=-1), features, atol=2e-2)


@pytest.mark.parametrize("preprocess", [{}, {"fill_color": 127}])
def test_a_tower_that_pads_sees_its_own_colour_around_images(
    toy: Any, tmp_path: Path, preprocess: dict[str, int]
) -> None:
    import open_clip

    shutil.copytree(toy.reading_clip.removeprefix("local-dir:"), tmp_path / "padded")
    described = tmp_path / "padded" / "open_clip_config.json"
    whole = json.loads(described.read_text()) | {"preprocess_cfg": {"resize_mode": "longest"} | preprocess}
    described.write_text(json.dumps(whole))
    padded = load_tower(ClipConfig(name=f"local-dir:{tmp_path / 'padded'}"))
    white = np.full((20, 40, 3), 255, np.uint8)  # as wide as the tower's input, so that nothing is resampled
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'padded'}")
    with torch.no_grad():
        wanted = model.encode_image(transform(Image.fromarray(white))[None])
    sample = Sample("white", torch.from_numpy(white).permute(2, 0, 1), None, ("red",))
    (own, _), (toves, _) = (embed_images(padded, [sample], view=view) for view in (None, "pad"))
    torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(toves, wanted, atol=1e-3), "that is the mean colour's"
    measured = report_tower(padded, [sample], lambda view: zero_shot(padded, [sample], CLASSES, view=view),
                            view="pad", own_transform=True)  # fmt: skip
    assert list(measured.views) == ["pad", "pad, the tower's own transform"]
    write_open_clip(padded, tmp_path / "again")
    again = load_tower(ClipConfig(name=f"local-dir:{tmp_path / 'again'}"))
    assert again.fill == padded.fill == (preprocess.get("fill_color", 0) / 255,) * 3 and again.resize_mode == "longest"


def test_retrieval_finds_any_text_of_an_image_and_images_shared_count_once(tower: Any, samples: list[Sample]) -> None:
    again = Sample("twin", samples[0].image, None, ("another text",))
    found = retrieve(tower, [*samples, again])
    assert len(found["image to text R@1"]) == 11 and len(found["text to image R@1"]) == 23
    values = [found[f"text to image R@{k}"].value for k in (1, 5, 10)]
    assert values == sorted(values) and found["text to image R@10"].samples.keys() >= {"twin#0", "s0#1"}


def test_clip_score_embeds_with_the_papers_prefix(tower: Any, samples: list[Sample]) -> None:
    said = {sample.id: sample.targets[0] for sample in samples}
    score = score_with_clip(tower, samples, said)
    images, _ = embed_images(tower, samples)
    texts = tower.embed_text([f"A photo depicts {text}" for text in said.values()])
    wanted = 2.5 * torch.cosine_similarity(images, texts).clamp(min=0)
    assert list(score.samples.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    with pytest.raises(DataError, match="1 have no candidate"):
        score_with_clip(tower, samples, {name: text for name, text in said.items() if name != "s3"})


def test_classes_and_templates_that_do_not_fit_are_refused(tower: Any, samples: list[Sample]) -> None:
    with pytest.raises(DataError, match=r"2 of 11 samples have a target that is none of 4 classes \(first: 's4', 's9'"):
        zero_shot(tower, samples, CLASSES[:4])
    with pytest.raises(DataError, match=r"no single \{\}"):
        zero_shot(tower, samples, CLASSES, templates=["a photo"])
    with pytest.raises(DataError, match="the class 'red' is named twice"):
        zero_shot(tower, samples, [*CLASSES, "red"])


@pytest.mark.parametrize("size", [0, -1])
def test_images_are_not_embedded_none_at_a_time(tower: Any, samples: list[Sample], size: int) -> None:
    for ask in (embed_images, retrieve):
        with pytest.raises(ConfigError, match=f"batch_size is {size}; give a whole number, at least 1"):
            ask(tower, samples, batch_size=size)

"""From the network's numbers to regions, compared with plain loops; and what it sees on photographs."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tove_expert_fastestdet.adapter import Detector, decode
from tove_expert_fastestdet.labels import COCO

import tove_core
from tove_core.hub.view import Preprocessor

LABELS = ("cat", "dog", "cup")


class Fixed(torch.nn.Module):
    """Stands for a network that gives what it is told."""

    def __init__(self, raw):
        super().__init__()
        self.raw = raw

    def forward(self, pixels):
        return self.raw


def drawn(batch=2, height=3, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(batch, 5 + len(LABELS), height, width, generator=generator)
    raw[:, 0] = raw[:, 0].sigmoid()
    raw[:, 5:] = (3 * raw[:, 5:]).softmax(1)
    return raw


def detect(raw, **options):
    detector = Detector(LABELS, **({"limit": 7, "threshold": 0.25, "overlap": 0.45} | options))
    detector.network = Fixed(raw)
    return detector(torch.zeros(len(raw), 3, 1, 1))["objects"]


def by_loops(raw, limit=7, threshold=0.25, overlap=0.45):
    """One list of (score, label, box) per image, best first."""
    found = []
    for image in raw.double():
        _, height, width = image.shape
        candidates = []
        for row in range(height):
            for column in range(width):
                sure, dx, dy, w, h, *labels = image[:, row, column].tolist()
                x, y = (math.tanh(dx) + column) / width, (math.tanh(dy) + row) / height
                w, h = (1 / (1 + math.exp(-side)) / 2 for side in (w, h))
                score, label = max((sure * p, -k) for k, p in enumerate(labels))
                candidates.append((score, -label, (x - w, y - h, x + w, y + h)))
        kept = []
        for one in sorted(candidates, reverse=True):
            same = [other for other in kept if other[1] == one[1]]
            if one[0] > threshold and all(iou(one[2], other[2]) <= overlap for other in same):
                kept.append(one)
        found.append(kept[:limit])
    return found


def iou(a, b):
    sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    shared = sides[0] * sides[1]
    return shared / (sum(area) - shared)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"limit": 2}, {"threshold": 0.05, "limit": 15}, {"overlap": 0.1}])
def test_regions_are_those_of_plain_loops(seed, options):
    raw = drawn(seed=seed)
    found, wanted = detect(raw, **options), by_loops(raw, **options)
    for i, rows in enumerate(wanted):
        assert int(found.valid[i].sum()) == len(rows) and bool(found.valid[i, : len(rows)].all())
        assert found.text[i] == [LABELS[k] for _, k, _ in rows] + [""] * (found.valid.shape[1] - len(rows))
        for k, (score, _, box) in enumerate(rows):
            assert found.scores[i, k].item() == pytest.approx(score, abs=1e-6)
            assert found.boxes[i, k].tolist() == pytest.approx([min(1, max(0, x)) for x in box], abs=1e-6)
    assert any(len(rows) > 1 for rows in wanted)


def test_where_nothing_is_sure_nothing_is_valid():
    raw = drawn()
    raw[0, 0] = 0
    found = detect(raw)
    assert not found.valid[0].any() and found.text[0] == [""] * 7 and found.valid[1].any()


def test_boxes_sit_where_their_position_says():
    raw = torch.zeros(1, 8, 4, 8)
    raw[0, 5] = 1
    raw[0, 0, 1, 6] = 0.9
    boxes, scores, _ = decode(raw)
    k = int(scores[0].argmax())
    # An offset of zero is the corner of the cell, and a side of zero is half the view: sigmoid(0).
    assert boxes[0, k].tolist() == pytest.approx([6 / 8 - 0.25, 1 / 4 - 0.25, 6 / 8 + 0.25, 1 / 4 + 0.25])


def test_labels_are_the_eighty_of_coco():
    assert len(COCO) == len(set(COCO)) == 80 and (COCO[0], COCO[57], COCO[79]) == ("person", "couch", "toothbrush")


@pytest.mark.shared_data
def test_labels_are_in_the_order_of_the_detectors_own_list(data):
    published = (data("weights/fastestdet") / "coco.names").read_text().split("\n")[:80]
    renamed = {"motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant"}
    renamed |= {"dining table": "diningtable", "tv": "tvmonitor"}
    assert [renamed.get(label, label) for label in COCO] == published


@pytest.mark.shared_data
def test_what_it_sees_on_photographs_is_what_people_wrote_about_them(data, expert):
    folder = data("coco-mini")
    content = json.loads((folder / "captions.json").read_text())
    captions = {image["id"]: "" for image in content["images"]}
    for one in content["annotations"]:
        captions[one["image_id"]] += one["caption"].lower() + " "
    preprocess = Preprocessor({"x": expert.spec.input}, "squash")
    names = [folder / "images" / image["file_name"] for image in content["images"]][:40]
    found = expert(preprocess(names)["x"])["objects"]
    sure = found.valid & (found.scores > 0.5)
    seen = [{text for text, ok in zip(row, on, strict=True) if ok} - {"person"}  # captions say man, woman, ...
            for row, on in zip(found.text, sure.tolist(), strict=True)]  # fmt: skip
    told = [captions[image["id"]] for image in content["images"]][:40]

    def named(shift: int) -> float:
        pairs = [(label, told[(i + shift) % 40]) for i, labels in enumerate(seen) for label in labels]
        return sum(label in text for label, text in pairs) / len(pairs)

    assert named(0) > 0.5 and named(0) > 4 * max(named(7), named(19))


NAME = "tove-expert-fastestdet/fastestdet"


def photo(seed: int) -> torch.Tensor:
    """Soft blobs of colour, uint8 [3, 90, 70]."""
    coarse = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (90, 70), mode="bicubic")[0]
    return (smooth.clamp(0, 1) * 255).byte()


def test_it_joins_a_hub_without_changing_a_bit_of_its_tokens():
    model = tove_core.build(["world-depth-day"], clip="package:tove_core.demo/assets/clip", decoder=None)
    photos = [photo(seed) for seed in range(3)]
    model.calibrate(photos)
    before = model.tokens(photos)
    model.add_expert(NAME)
    assert model.active_experts == ["world-depth-day", NAME]
    assert torch.equal(model.tokens(photos), before)


def test_a_hub_reads_its_labels_with_clips_text_tower():
    model = tove_core.build([NAME], clip="package:tove_core.demo/assets/clip", decoder=None)
    embedding = model.texts(["cat", "dining table"]).shape[1]
    features = model.encode(photo(3))[NAME]
    assert features.shape == (1, 36, model.align[NAME].width) and features.shape[-1] > embedding
    assert model.provenance.experts[NAME].license == "BSD-3-Clause"

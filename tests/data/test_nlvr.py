from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tove_core.cli import lifecycle
from tove_core.cli.runs import evaluation_data
from tove_core.config import DataConfig, RunConfig
from tove_core.data.parts import ImagePart
from tove_core.data.readers import read
from tove_core.data.sample import distinct_images
from tove_core.errors import DataError
from tove_core.settings import write_config
from tove_core.training.run_data import held_out


def strip(first: int) -> Image.Image:
    """Return three boxes of the greys first, first + 1 and first + 2 with white between them."""
    pixels = np.full((100, 400, 3), 255, np.uint8)
    for number, left in enumerate((0, 150, 300)):
        pixels[:, left : left + 100] = first + number
    return Image.fromarray(pixels)


def split(folder, name: str, *rows: tuple[str, str, str, list[int]]) -> None:
    """Write statements: identifier, sentence, label and the first grey of each picture."""
    lines = []
    for identifier, sentence, label, greys in rows:
        lines.append(json.dumps({"sentence": sentence, "label": label, "identifier": identifier, "directory": "3"}))
        for k, grey in enumerate(greys):
            path = folder / name / "images" / "3" / f"{name}-{identifier}-{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            strip(grey).save(path)
    (folder / f"{name}.json").write_text("\n".join(lines))


@pytest.fixture
def nlvr(tmp_path):
    split(tmp_path, "dev", ("1-0", "One is black.", "true", [1, 2]), ("2-0", "Two  towers", "false", [7, 8]))
    split(tmp_path, "test", ("5-1", "two towers.", "true", [20] * 6), ("6-1", "None.", "true", [30, 2, 31, 32, 33, 34]))

    def config(name: str = "dev", **options) -> DataConfig:
        return DataConfig(reader="nlvr", path=tmp_path, split=name, options={"permutations": 2} | options)

    return config


def test_every_picture_is_a_sample_of_three_boxes_in_order(nlvr):
    samples = read(nlvr())
    assert [s.id for s in samples] == ["dev-1-0-0", "dev-1-0-1", "dev-2-0-0", "dev-2-0-1"]
    assert [s.targets for s in samples] == [("true",)] * 2 + [("false",)] * 2
    assert {s.meta["identifier"] for s in samples[:2]} == {"1-0"}
    boxes = samples[1].load()
    assert [box.shape for box in boxes] == [(3, 100, 100)] * 3
    assert [set(box.unique().tolist()) for box in boxes] == [{2}, {3}, {4}], "no gap is left in a box"
    assert len(distinct_images(samples)[0]) == 12


def test_the_strip_can_be_one_image_and_one_permutation_be_enough(nlvr):
    samples = read(nlvr(images="strip", permutations=1))
    assert [s.id for s in samples] == ["dev-1-0-0", "dev-2-0-0"]
    assert Image.open(samples[0].load()).size == (400, 100)


def test_what_another_split_holds_is_left_out(nlvr):
    assert [s.id for s in read(nlvr(disjoint_from="test"))] == ["dev-1-0-0", "dev-2-0-0", "dev-2-0-1"]
    strict = read(nlvr(disjoint_from="test", strict=True))
    assert [s.id for s in strict] == ["dev-1-0-0"], "sentences are compared without case, blanks and full stop"


def test_a_run_that_was_kept_apart_from_a_split_is_scored_on_all_of_it(nlvr, tmp_path):
    run = RunConfig(data=nlvr(disjoint_from="test", strict=True), output=tmp_path / "run")
    run.output.mkdir()
    write_config(run, run.output / "config.yaml")
    every = [sample.id for sample in read(nlvr("test"))]
    by_option = evaluation_data(run.output, None, None, "test", None)
    default = held_out(run)
    assert default is not None
    for data in (by_option, default):
        assert data.options == {"permutations": 2} and [sample.id for sample in read(data)] == every
    _, measured = lifecycle._samples(run.output, None, None, "test", None, None, None)
    assert [sample.id for sample in measured] == every
    own = evaluation_data(run.output, None, None, "dev", None)
    assert [sample.id for sample in read(own)] == [sample.id for sample in read(run.data)] == ["dev-1-0-0"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strict": True}, "strict was set without disjoint_from"),
        ({"disjoint_from": "dev"}, "cannot be disjoint from itself"),
        ({"disjoint_from": "train"}, "has no train.json"),
    ],
)
def test_options_that_contradict_each_other_are_refused(nlvr, options, words):
    with pytest.raises(DataError, match=words):
        read(nlvr(**options))


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, 0, 1.1, 1), (0.2, 0.5, 0.4, 0.4)])
def test_parts_outside_of_the_image_are_refused(box):
    with pytest.raises(DataError, match="left < right and top < bottom"):
        ImagePart(b"x", box)


def test_tiles_cover_an_image_of_any_size_once(tmp_path):
    pixels = np.arange(11 * 7 * 3, dtype=np.uint8).reshape(11, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", "text": "x"}))
    (only,) = read(DataConfig(path=tmp_path / "a.jsonl", tiles=3))
    whole, *tiles = only.load()
    assert whole == tmp_path / "a.png" and len(tiles) == 9
    rows = [np.concatenate([t.permute(1, 2, 0).numpy() for t in tiles[i : i + 3]], 1) for i in (0, 3, 6)]
    np.testing.assert_array_equal(np.concatenate(rows, 0), pixels)


@pytest.mark.shared_data
def test_published_nlvr_has_the_counts_its_authors_state_and_its_leaks_are_closed(shared_data):
    folder = shared_data("nlvr")
    counts = {}
    for name, options in {"all": {}, "pictures": {"disjoint_from": "test"}}.items():
        samples = read(DataConfig(reader="nlvr", path=folder, split="dev", options=options))
        counts[name] = (len(samples), len({s.meta["identifier"] for s in samples}))
    assert counts == {"all": (989 * 6, 989), "pictures": (953 * 6, 953)}, "a statement's six pictures leak together"
    assert samples[0].load()[2].shape == (3, 100, 100)

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tove_core.config import DataConfig
from tove_core.data.sample import Sample
from tove_core.errors import CheckpointError, ConfigError, DataError
from tove_core.evaluation import collect as collecting
from tove_core.evaluation import run as runs
from tove_core.evaluation.collect import begin, collect, remaining
from tove_core.evaluation.predict import predict
from tove_core.evaluation.predictions import read_predictions
from tove_core.evaluation.run import evaluate_into
from tove_core.evaluation.saved import open_predictions
from tove_core.training.examples import Examples

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MANIFEST = {"format": 1, "task": "t", "model": {}, "data": {}, "generation": {}}


@pytest.fixture(scope="module")
def model(toy: Any) -> Any:
    built = toy.build(["toy-wide"])
    toy.examples(built)
    return built


@pytest.fixture(scope="module")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "checkpoint"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def questions(toy: Any) -> list[Sample]:
    return [sample for sample in toy.samples() if sample.prompt is not None]


def whole(toy: Any, model: Any) -> dict[str, str]:
    return predict(model, toy.examples(model))


def test_a_folder_holds_what_the_model_says_in_the_order_of_the_data(toy: Any, model: Any, tmp_path: Path) -> None:
    begin(tmp_path / "out", MANIFEST, toy.samples())
    found = collect(model, toy.samples(), tmp_path / "out", batch_size=3, block=5)
    assert found.said == whole(toy, model) and list(found.said) == [sample.id for sample in toy.samples()]
    assert found.samples_per_second is not None and found.samples_per_second > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        "predictions.jsonl",
        "references.jsonl",
    }


def test_each_image_is_encoded_once_whatever_the_order_of_questions(
    toy: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [replace(one, image=toy.pictures(4)[i % 4]) for i, one in enumerate(toy.samples())]
    plain, encoded = model.encode, []
    monkeypatch.setattr(model, "encode", lambda images: encoded.append(len(images)) or plain(images))
    begin(tmp_path / "out", MANIFEST, samples)
    found = collect(model, samples, tmp_path / "out", batch_size=3, block=4)
    assert encoded == [2, 2], "of 12 questions, those about an image are never next to each other"
    assert found.said == predict(model, Examples.cached(model, samples)) and list(found.said) == [s.id for s in samples]


def test_what_samples_of_several_images_share_is_encoded_again_in_the_next_block_at_most(
    toy: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = toy.pictures(5)
    samples = [replace(toy.samples()[i], image=(shown[i % 4], shown[i % 4 + 1])) for i in range(12)]
    plain, encoded = model.encode, []
    monkeypatch.setattr(model, "encode", lambda images: encoded.append(len(images)) or plain(images))
    found = list(collecting.blocks(model, samples, 0.1, True, quiet=True, block=6))
    assert encoded == [3, 3] and [len(one) for one in found] == [6, 6]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_ends_an_evaluation_with_a_sentence(toy: Any, model: Any, tmp_path: Path) -> None:
    begin(tmp_path, MANIFEST, toy.samples())
    (tmp_path / "part-00000.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"part-00000\.jsonl cannot be written .*No space left"):
        collect(model, toy.samples(), tmp_path, batch_size=3)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_stopped_evaluation_goes_on_and_says_the_same(
    after: int, toy: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = model.generate, []

    def stopping(tokens: Any, prompts: Any, **options: Any) -> list[str]:
        asked.append(len(prompts))
        if len(asked) == after + 1:
            raise KeyboardInterrupt
        return plain(tokens, prompts, **options)

    begin(tmp_path, MANIFEST, toy.samples())
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", stopping)
        with pytest.raises(KeyboardInterrupt):
            collect(model, toy.samples(), tmp_path, batch_size=2, block=6)
    part = tmp_path / "part-00000.jsonl"
    assert len(part.read_text().splitlines()) == sum(asked[:after])
    with part.open("a") as file:
        file.write('{"id": "s11", "predic')  # torn by the stop
    assert not (tmp_path / "predictions.jsonl").exists()
    with pytest.raises(ConfigError, match="did not finish"):
        open_predictions(tmp_path)
    begin(tmp_path, MANIFEST, toy.samples())
    assert len(remaining(tmp_path, toy.samples())) == 12 - sum(asked[:after])
    assert collect(model, toy.samples(), tmp_path, batch_size=2, block=6).said == whole(toy, model)


class Together:
    """`PartialState` of processes that are threads here."""

    def __init__(self, count: int) -> None:
        self.barrier, self.local, self.num_processes = threading.Barrier(count, timeout=60), threading.local(), count

    @property
    def process_index(self) -> int:
        return self.local.index

    @property
    def is_main_process(self) -> bool:
        return self.local.index == 0

    def wait_for_everyone(self) -> None:
        self.barrier.wait()

    def run(self, work: Callable[[], Any]) -> list[Any]:
        results: list[Any] = [None] * self.num_processes

        def one(index: int) -> None:
            self.local.index = index
            try:
                results[index] = work()
            except Exception as error:
                results[index] = error

        threads = [threading.Thread(target=one, args=(index,)) for index in range(self.num_processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def test_processes_share_the_work_and_another_number_of_them_may_go_on(
    toy: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, answered = Together(3), []
    monkeypatch.setattr(collecting, "PartialState", lambda: state)
    plain = collecting.predict_batches
    lock = threading.Lock()

    def counted(model: Any, examples: Any, **options: Any) -> Any:
        with lock:  # one model serves all threads
            answered.append([sample.id for sample in examples.samples])
            yield from plain(model, examples, **options)

    monkeypatch.setattr(collecting, "predict_batches", counted)
    # An earlier run of five processes left two parts.
    wanted = whole(toy, model)
    for index, name in ((1, "s4"), (4, "s9")):
        line = json.dumps({"id": name, "prediction": wanted[name]}) + "\n"
        (tmp_path / f"part-0000{index}.jsonl").write_text(line)

    def work() -> Any:
        begin(tmp_path, MANIFEST, toy.samples())
        return collect(model, toy.samples(), tmp_path, batch_size=2).said

    assert state.run(work) == [wanted] * 3
    assert sorted(name for part in answered for name in part) == sorted(wanted.keys() - {"s4", "s9"})
    assert sorted(map(len, answered)) == [3, 3, 4]
    assert list(read_predictions(tmp_path / "predictions.jsonl").items()) == list(wanted.items())


def test_an_evaluation_can_be_scored_again_and_says_what_it_was(
    checkpoint: Path, questions: list[Sample], toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(path=toy.data)
    found = evaluate_into(tmp_path / "out", checkpoint, data, questions, quiet=True)
    first = str(found)
    assert first.startswith("exact-match: 8 samples of 8 images") and "cost: " in first and "GFLOP" in first
    saved = open_predictions(tmp_path / "out")
    assert saved.said == found.said and saved.task == "exact-match" and saved.references is not None
    manifest = saved.manifest
    assert manifest["data"]["samples"] == 8 and manifest["data"]["reader"] == "jsonl"
    assert manifest["model"]["provenance"]["experts"].keys() == {"toy-wide"} and manifest["versions"]["torch"]
    assert manifest["cost"]["gflop"] > 0 and manifest["cost"]["peak_memory"] > 2**20 and manifest["cost"]["latency"] > 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["scores"]["exact match"]["n"] == 8 and scores["kinds"].keys() == {"colour", "dark"}
    # Nothing is left to do: the model is not even built.
    monkeypatch.setattr(runs.ToveModel, "from_pretrained", lambda *_, **__: pytest.fail("no need"))
    again = evaluate_into(tmp_path / "out", checkpoint, data, questions, quiet=True)
    assert again == found and str(again) == first


def test_a_folder_takes_no_other_evaluation(
    checkpoint: Path, questions: list[Sample], toy: Any, tmp_path: Path
) -> None:
    data, options = DataConfig(path=toy.data), {"quiet": True}
    evaluate_into(tmp_path / "out", checkpoint, data, questions, **options)
    with pytest.raises(ConfigError, match="holds the evaluation of another data; give another --out"):
        evaluate_into(tmp_path / "out", checkpoint, data, questions[1:], **options)
    with pytest.raises(ConfigError, match="another task and generation"):
        evaluate_into(tmp_path / "out", checkpoint, data, questions, "gqa", num_beams=2, **options)
    with pytest.raises(DataError, match="not true or false"):
        evaluate_into(tmp_path / "other", checkpoint, data, questions, "pope", **options)


def test_unreadable_images_count_among_all_and_are_named_in_the_manifest(toy: Any, model: Any, tmp_path: Path) -> None:
    samples = [replace(one, image=one.id.encode()) if one.id in ("s3", "s4") else one for one in toy.samples()]
    begin(tmp_path, MANIFEST, samples)
    # Two of five in a block are too many, two of twelve are not.
    with pytest.raises(DataError, match=r"2 of 12 images cannot be used, more than data.max_broken .0.1. allows"):
        collect(model, samples, tmp_path, batch_size=3, block=5, max_broken=0.1)
    begin(tmp_path, MANIFEST, samples)
    assert {"s3", "s4"} <= {sample.id for sample in remaining(tmp_path, samples)}
    found = collect(model, samples, tmp_path, batch_size=3, block=5, max_broken=0.2)
    wanted = {key: text for key, text in whole(toy, model).items() if key not in ("s3", "s4")}
    assert found.said == wanted and list(found.said) == list(wanted)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["unreadable"] == ["s3", "s4"] and manifest["left_out"] == {"image unreadable": 2}
    assert remaining(tmp_path, samples) == []
    saved = open_predictions(tmp_path)
    assert saved.references is not None and [one.id for one in saved.references] == list(wanted)


def test_a_stop_for_too_many_unreadable_images_goes_on_with_a_larger_limit_and_keeps_what_was_said(
    checkpoint: Path, questions: list[Sample], toy: Any, tmp_path: Path
) -> None:
    samples = [*questions[:-1], replace(questions[-1], image=b"no image")]
    data, options = DataConfig(path=toy.data, max_broken=0.01), {"quiet": True}
    with pytest.raises(DataError, match=r"more than data.max_broken .0.01. allows"):
        evaluate_into(tmp_path, checkpoint, data, samples, **options)
    (tmp_path / "part-00000.jsonl").write_text(json.dumps({"id": samples[0].id, "prediction": "said before"}) + "\n")
    larger = data.model_copy(update={"max_broken": 0.5})
    found = evaluate_into(tmp_path, checkpoint, larger, samples, **options)
    assert len(found.said) == 7 and found.said[samples[0].id] == "said before"
    evaluate_into(tmp_path, checkpoint, data, samples, **options)  # nothing is left to do
    assert json.loads((tmp_path / "manifest.json").read_text())["data"]["max_broken"] == 0.5


def test_what_could_not_be_read_is_tried_again_after_a_stop(toy: Any, model: Any, tmp_path: Path) -> None:
    begin(tmp_path, MANIFEST, toy.samples())
    (tmp_path / "part-00003.jsonl").write_text('{"id": "s2", "prediction": null}\n{"id": "s5", "prediction": "x"}\n')
    begin(tmp_path, MANIFEST, toy.samples())
    assert [one.id for one in remaining(tmp_path, toy.samples())] == [f"s{n}" for n in range(12) if n != 5]
    assert collect(model, toy.samples(), tmp_path).said == {**whole(toy, model), "s5": "x"}

"""The model that lmms-eval drives: every test runs over the stand-in, and over lmms-eval where it is installed."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional

from tove_core.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ROOT = Path(__file__).parents[3]
PROMPTS = ("what colour is it?", "is it black?", "Describe the image.", "a red or a green square? say it")


@pytest.fixture(scope="module")
def checkpoint(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = toy.build(["toy-wide"], decoder={"max_new_tokens": 6})
    toy.examples(model)
    return model.save_pretrained(tmp_path_factory.mktemp("lmms") / "run" / "checkpoint")


@pytest.fixture(scope="module")
def documents(toy: Any) -> list[dict[str, Any]]:
    pictures = [Image.open(path) for path in toy.pictures(7)]
    return [{"images": [pictures[i]], "answer": "red square", "line": i} for i in range(6)] + [
        {"images": pictures[:2], "answer": "black", "line": 6},
        {"images": pictures[3:5], "answer": "green", "line": 7},
    ]


@pytest.fixture
def make(interface: SimpleNamespace, checkpoint: Path, documents: Any) -> Any:
    interface.said.clear()

    def build(**options: Any) -> Any:
        made = interface.model.Tove(str(checkpoint.parent), **{"device": "cpu", **options})
        made.task_dict["toy"] = {"test": documents}
        return made

    return build


def opened(document: dict[str, Any]) -> Any:
    return document["images"]


def asking(interface: Any, kind: str, document: int, *arguments: Any) -> Any:
    metadata = {"task": "toy", "doc_id": document, "repeats": 1}
    return interface.instance.Instance(kind, (*arguments, document, "toy", "test"), 0, metadata)


def generating(interface: Any, document: int, prompt: str, **options: Any) -> Any:
    return asking(interface, "generate_until", document, prompt, options, opened)


def alone(lm: Any, document: dict[str, Any], prompt: str, **options: Any) -> str:
    tokens = lm.model.tokens(document["images"]).flatten(0, 1)[None]
    return lm.model.generate(tokens, [prompt], **options)[0]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_answers_come_in_the_order_asked_whatever_options_and_images(make, interface, documents, size):
    lm = make(batch_size=size)
    kinds = [{"max_new_tokens": 2}, {}, {"num_beams": 3, "max_new_tokens": 4}, {"max_new_tokens": 2}]
    wanted = [(i * 5 % 8, PROMPTS[i % 4], kinds[i % 3 if i < 12 else 3]) for i in range(17)]
    got = lm.generate_until([generating(interface, d, p, **o) for d, p, o in wanted])
    assert got == [alone(lm, documents[d], p, **o) for d, p, o in wanted]
    assert len(set(got)) > 5, "the toy model says different things"


def test_images_stand_where_a_prompt_marks_as_many_places(make, interface, documents):
    lm = make(batch_size=3)
    marked = ["first <image> then <image> which", "<image> " + PROMPTS[1], "first <image> which"]
    got = lm.generate_until([generating(interface, d, p) for d, p in zip((6, 0, 7), marked, strict=True)])
    assert got[:2] == [alone(lm, documents[d], p) for d, p in zip((6, 0), marked[:2], strict=True)]
    assert got[0] != alone(lm, documents[6], "first then which"), "the places count"
    assert got[2] == alone(lm, documents[7], "first  which"), "one place for several images is none"


def test_an_answer_stops_before_the_first_stop_text(make, interface, documents):
    lm = make(batch_size=2)
    whole = alone(lm, documents[0], PROMPTS[0])
    stop = whole[len(whole) // 2]
    cut, kept = lm.generate_until(
        [generating(interface, 0, PROMPTS[0], until=[stop, "\u2603"]), generating(interface, 0, PROMPTS[0], until=[])]
    )
    assert kept == whole and cut == whole.split(stop)[0].strip() != whole


def test_sampling_follows_seed_and_temperature(make, interface, documents):
    lm = make(batch_size=4)

    def said(**options: Any) -> list[str]:
        return lm.generate_until([generating(interface, d, PROMPTS[0], max_new_tokens=6, **options) for d in range(4)])

    greedy = [alone(lm, documents[d], PROMPTS[0], max_new_tokens=6) for d in range(4)]
    assert said(temperature=2.0, seed=5) == said(temperature=2.0, seed=5) != said(temperature=2.0, seed=6)
    assert said(temperature=0, top_p=0.9) == greedy == said(do_sample=False, temperature=0.4)
    assert any("temperature=0.4 has no effect" in sentence for sentence in interface.said)


def test_what_tove_cannot_follow_is_said_once(make, interface):
    lm = make(batch_size=2)
    marked = [f"<image> <image> {prompt}" for prompt in PROMPTS]
    asked = [generating(interface, d, marked[d], image_aspect_ratio="pad") for d in (0, 1, 2)]
    several = [generating(interface, 6, PROMPTS[0]), generating(interface, 7, PROMPTS[1])]
    lm.generate_until(asked), lm.generate_until(asked + several)
    told = [sentence.removeprefix("tove: ") for sentence in interface.said]
    assert len(told) == len(set(told)) == 4, told
    for beginning in (
        "this model was never trained",
        "generation option image_aspect_ratio='pad'",
        "a prompt has other places",
    ):
        assert any(sentence.startswith(beginning) for sentence in told)
    assert any("several images" in sentence for sentence in told)


def test_an_answer_is_not_longer_than_the_language_model_allows(make, interface, documents):
    lm = make()
    lm.model.decoder.language_model.config.max_position_embeddings = 60
    room = lm.model.decoder.room(lm.model.tokens(documents[0]["images"]), [PROMPTS[0]])
    got = lm.generate_until([generating(interface, 0, PROMPTS[0], max_new_tokens=1024)])
    assert got == [alone(lm, documents[0], PROMPTS[0], max_new_tokens=room)]
    assert any("max_new_tokens=1024 is cut" in sentence for sentence in interface.said)
    with pytest.raises(ConfigError, match="exceeds the 60"):
        lm.generate_until([generating(interface, 0, PROMPTS[0] * 9, max_new_tokens=1024)])


def by_hand(lm: Any, document: dict[str, Any], prompt: str, answer: str) -> tuple[float, bool]:
    """One sequence, unpadded, through the language model itself."""
    decoder = lm.model.decoder
    (text,) = decoder.encode([prompt], [answer])
    ids = torch.tensor([text.target[:-1]])
    embed = decoder.language_model.get_input_embeddings()
    sides = [embed(torch.tensor([list(part)], dtype=torch.long)) for part in (text.before, text.after)]
    image = decoder.projector(lm.model.tokens(document["images"]).flatten(0, 1)[None])
    with torch.no_grad():
        logits = decoder.language_model(inputs_embeds=torch.cat([sides[0], image, sides[1], embed(ids)], 1)).logits
    logits = logits[0, -ids.shape[1] - 1 : -1].double()
    log_p = functional.log_softmax(logits, -1)[range(ids.shape[1]), ids[0]].sum()
    return float(log_p), bool((logits.argmax(-1) == ids[0]).all())


@pytest.mark.parametrize("size", [1, 4])
def test_likelihoods_are_those_of_the_continuation_in_the_order_asked(make, interface, documents, size):
    lm = make(batch_size=size)
    wanted = [(i * 3 % 8, PROMPTS[i % 4]) for i in range(9)]
    asked = [asking(interface, "loglikelihood", d, p, lambda one: one["answer"], opened) for d, p in wanted]
    got = lm.loglikelihood(asked)
    for (value, greedy), (document, prompt) in zip(got, wanted, strict=True):
        log_p, hit = by_hand(lm, documents[document], prompt, documents[document]["answer"])
        assert value == pytest.approx(log_p, abs=1e-4) and greedy is hit and value < 0


@pytest.mark.parametrize(("best", "sign"), [("lowest", -1), ("highest", 1)])
def test_choices_are_scored_so_that_lmms_eval_finds_the_best(make, interface, documents, best, sign):
    lm = make(best_choice=best, batch_size=3)
    choices = [" red", " green square", " two", " a blue square"]
    got = lm.loglikelihood([asking(interface, "loglikelihood", 1, PROMPTS[0], one, opened) for one in choices])
    assert [value for value, _ in got] == pytest.approx(
        [sign * by_hand(lm, documents[1], PROMPTS[0], one)[0] for one in choices], abs=1e-4
    )
    assert any("-log p" in sentence for sentence in interface.said) == (best == "lowest")
    passed, _ = interface.instance.unwrap_generation_output(got[0])
    assert passed == tuple(got[0]) and isinstance(passed[0], float), "the evaluator would make text of a plain pair"


def test_a_document_is_encoded_once_for_all_its_choices(make, interface, monkeypatch):
    lm = make(batch_size=2)
    plain, encoded = lm.model.tokens, []
    monkeypatch.setattr(lm.model, "tokens", lambda images: encoded.extend(images) or plain(images))
    asked = [asking(interface, "loglikelihood", d, PROMPTS[0], c, opened) for c in (" a", " b", " c") for d in range(3)]
    lm.loglikelihood(asked)
    assert len(encoded) == 3


def test_rounds_go_on_until_the_task_ends_them(make, interface, documents):
    lm = make(batch_size=2)

    def turn(document: Any, previous_output: Any, round_idx: int, previous_round_info: Any) -> Any:
        notes = [*(previous_round_info or []), round_idx]
        assert notes == list(range(1, round_idx + 1)) and len(previous_output) == round_idx
        if round_idx > document["line"] % 3:
            return None, None, True, previous_output, None
        return documents[5]["images"], f"{PROMPTS[1]} {previous_output[-1]}", False, previous_output, notes

    order = [4, 0, 2, 1]
    got = lm.generate_until_multi_round(
        [asking(interface, "generate_until_multi_round", d, PROMPTS[0], {}, opened, turn) for d in order]
    )
    assert [len(said) for said in got] == [d % 3 + 1 for d in order]
    for said, document in zip(got, order, strict=True):
        assert said[0] == alone(lm, documents[document], PROMPTS[0])
        for before, after in pairwise(said):
            assert after == alone(lm, documents[5], f"{PROMPTS[1]} {before}")
    assert interface.instance.unwrap_generation_output(got[0])[0] == got[0]
    with pytest.raises(DataError, match="gave str after round 1, but visuals"):
        lm.generate_until_multi_round(
            [asking(interface, "generate_until_multi_round", 0, "a", {}, opened, lambda *a, **k: "more")]
        )


def test_requests_that_tove_cannot_answer_are_refused_in_one_sentence(make, interface):
    lm = make()
    visuals = {"none": lambda one: None, "empty": lambda one: [], "film": lambda one: ["film.mp4"]}
    for name, sentence in (("none", "has no image"), ("empty", "has no image"), ("film", "a visual of type str")):
        with pytest.raises(DataError, match=sentence):
            lm.generate_until([asking(interface, "generate_until", 0, "a", {}, visuals[name])])
    with pytest.raises(DataError, match="1 of 1 answers are blank"):
        lm.loglikelihood([asking(interface, "loglikelihood", 0, "a", " ", opened)])
    with pytest.raises(DataError, match=r"the target of request \(0, 'toy', 'test'\) is 0, but a text is wanted"):
        lm.loglikelihood([asking(interface, "loglikelihood", 0, "a", lambda one: one["line"], opened)])
    bare = interface.instance.Instance("loglikelihood", ("", "red"), 0, {"task": "toy", "doc_id": 0, "repeats": 1})
    with pytest.raises(DataError, match="2 arguments where 6 are wanted"):
        lm.loglikelihood([bare])
    with pytest.raises(ConfigError, match="leave out --apply_chat_template"):
        _ = lm.apply_chat_template


def test_no_requests_give_no_answers(make):
    lm = make()
    assert lm.generate_until([]) == lm.loglikelihood([]) == lm.generate_until_multi_round([]) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dtype": "half"}, "model_args has dtype, but tove takes"),
        ({"batch_size": "auto"}, "batch_size is 'auto', but a number from 1 up"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"best_choice": "first"}, "best_choice is 'first', but lowest or highest"),
    ],
)
def test_model_arguments_that_mean_nothing_are_refused(make, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make(**options)


def test_a_model_without_a_decoder_is_refused(interface, toy, tmp_path):
    toy.build(["toy-wide"], decoder=None).save_pretrained(tmp_path / "blind")
    with pytest.raises(ConfigError, match="without a decoder"):
        interface.model.Tove(str(tmp_path / "blind"), device="cpu")


def test_lmms_evals_own_way_of_making_it(interface, checkpoint):
    given = {"batch_size": "2", "max_batch_size": None, "device": None}
    lm = interface.model.Tove.create_from_arg_string(f"pretrained={checkpoint},device=cpu", given)
    assert (lm.batch_size, lm.device, lm.rank, lm.world_size) == (2, torch.device("cpu"), 0, 1)
    assert lm.accelerator.num_processes == 1
    lm.clean()
    assert not hasattr(lm, "model")
    with pytest.raises(ConfigError, match="already freed"):
        lm.generate_until([])


def test_lmms_eval_finds_the_model_by_name(interface):
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = described["entry-points"]["lmms_eval.models"].items()
    manifest = EntryPoint(name, value, "lmms_eval.models").load()()
    assert manifest.model_id == "tove" and manifest.chat_class_path is None
    module, _, attribute = manifest.simple_class_path.rpartition(".")
    assert module == interface.model.__name__ and getattr(interface.model, attribute) is interface.model.Tove
    assert interface.model.Tove.is_simple

from __future__ import annotations

import sys
import threading
import time
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tove_core.app.host import Host, Question, look, switched
from tove_core.errors import ConfigError, DataError, ImageError, UnknownExpertError
from tove_core.report.gate_maps import over, seen

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")

GATE = {"kind": "gate", "gate": {"hidden": 6, "balance_warmup": 1}}
QUESTION = "what colour is it?"


def built(toy: Any, **options: Any) -> Any:
    """Build a model whose gates differ, and whose language model is trained: it has dropout in training."""
    model = toy.build(decoder={"train": "all", "max_new_tokens": 9}, seed=3, **options)
    if model.experts:
        model.calibrate(toy.pictures(4))
        draw = torch.Generator().manual_seed(8)
        for name, parameter in model.fusion.named_parameters():
            if name.startswith("gate."):
                parameter.data += 0.5 * torch.randn(parameter.shape, generator=draw)
    for parameter in model.decoder.projector.parameters():  # what is seen shall decide what is said
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9))
    return model


def whole(host: Host, *question: Any, **options: Any) -> Any:
    *_, last = host.answer(Question(*question, **options))
    return last


def with_blanks(model: Any) -> None:
    """Let the language model prefer words that begin with a blank: streams come word by word."""
    words = [number for word, number in model.decoder.tokenizer.get_vocab().items() if word.startswith("Ġ")]

    def prefer(module: Any, given: Any, output: Any) -> None:
        output.logits[..., words] += 2 * output.logits.std()

    model.decoder.language_model.register_forward_hook(prefer)


@pytest.mark.parametrize("text", ["", " \n", QUESTION])
def test_a_streamed_answer_grows_to_what_the_model_answers(toy: Any, text: str) -> None:
    model, image = built(toy), toy.pictures(1)[0]
    with_blanks(model)
    replies = list(Host(model, 30).answer(Question(image, text)))
    asked = text if text.strip() else model.decoder.config.caption_prompt
    assert replies[-1].text == model.answer(image, asked, max_new_tokens=30)[0] != ""
    assert replies[0].text == "" and len(replies) > 3 and {reply.plain for reply in replies} == {None}
    for before, after in pairwise(replies):
        assert after.text.startswith(before.text) and after.text != before.text


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
@pytest.mark.parametrize("on", [["toy-wide"], ["toy-whole", "toy-fine"], [], ["toy-fine", "toy-wide", "toy-whole"]])
def test_a_choice_of_experts_is_the_model_without_the_others(toy: Any, rule: str, on: list[str]) -> None:
    fusion = GATE | {"rule": rule}
    model, detached = built(toy, fusion=fusion), built(toy, fusion=fusion)
    image = toy.pictures(2)[1]
    for name in set(toy.experts) - set(on):
        detached.detach(name)
    found = look(switched(model, on), image)
    assert torch.equal(found.tokens, detached.tokens(image))
    assert whole(Host(model), image, QUESTION, experts=on).text == detached.answer(image, QUESTION)[0]
    assert list(found.gates) == detached.active_experts
    for name, grid in found.gates.items():
        assert torch.equal(grid, detached.gates(image)[name][0])
    assert model.active_experts == list(toy.experts), "the model itself is as it was"


def test_an_expert_that_is_off_in_the_model_keeps_its_rule_and_may_be_switched_on(toy: Any) -> None:
    model = built(toy)
    image = toy.pictures(1)[0]
    all_on = model.tokens(image)
    model.detach("toy-wide", "renormalise")
    off = model.tokens(image)
    host = Host(model)
    assert host.experts == list(toy.experts)
    assert torch.equal(look(switched(model, toy.experts), image).tokens, all_on)
    assert torch.equal(look(switched(model, ["toy-fine", "toy-whole"]), image).tokens, off)
    assert whole(host, image, QUESTION).text == model.answer(image, QUESTION)[0], "none chosen: those of the model"
    assert model.fusion.off == {"toy-wide": "renormalise"}


def test_clip_only_stands_beside_the_answer_and_is_what_no_expert_gives(toy: Any) -> None:
    model = built(toy)
    image = toy.pictures(1)[0]
    replies = list(Host(model).answer(Question(image, QUESTION, compare=True)))
    with_experts = model.answer(image, QUESTION)[0]
    for name in toy.experts:
        model.detach(name)
    assert replies[0].plain == ""
    assert (replies[-1].text, replies[-1].plain) == (with_experts, model.answer(image, QUESTION)[0])
    assert torch.equal(look(switched(model, toy.experts), image).plain, model.tokens(image))


def test_visitors_at_the_same_time_do_not_disturb_each_other(toy: Any) -> None:
    model = built(toy)
    host, images = Host(model, 24), toy.pictures(2)
    choices = [["toy-fine"], [], list(toy.experts), ["toy-wide", "toy-whole"]]
    asked = [Question(*one, compare=one[0] is images[0]) for one in product(images, [QUESTION], choices)]
    right = [list(host.answer(one))[-1] for one in asked]
    assert len({one.text for one in right}) > 3, "somebody else's answer must be another"
    faults: list[BaseException] = []

    def visit(start: int) -> None:
        try:
            for step in range(len(asked)):
                number = (start + step) % len(asked)
                *_, last = host.answer(asked[number])
                assert (last.text, last.plain) == (right[number].text, right[number].plain)
                assert [told for _, told in last.maps] == [told for _, told in right[number].maps]
        except BaseException as error:
            faults.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        threads = [threading.Thread(target=visit, args=(start,)) for start in (0, 3, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert faults == []
    assert model.active_experts == list(toy.experts) and model.training is False


def test_experts_run_for_one_visitor_at_a_time(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(toy)
    host, image = Host(model), toy.pictures(1)[0]
    kind, inside, most = type(model.experts["toy-wide"]), [], []
    run = kind.forward

    def counted(expert: Any, pixels: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return run(expert, pixels)

    monkeypatch.setattr(kind, "forward", counted)
    threads = [threading.Thread(target=whole, args=(host, image)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 3 * len(toy.experts)


def test_there_is_a_map_for_each_expert_that_is_on_with_one_scale(toy: Any) -> None:
    model = built(toy)
    image = toy.pictures(3)[2]
    reply = whole(Host(model), image, experts=["toy-fine", "toy-whole"])
    model.detach("toy-wide")
    gates = {name: grid[0] for name, grid in model.gates(image).items() if name != "toy-wide"}
    largest = max(float(grid.max()) for grid in gates.values())
    assert reply.note == f"gate: darkest 0, brightest {largest:.2f}; 1 is the weight of equal gates"
    assert len(reply.maps) == 2
    for (picture, told), (name, grid) in zip(reply.maps, gates.items(), strict=True):
        assert told == f"{name}: mean {float(grid.mean()):.2f}, largest {float(grid.max()):.2f}"
        wanted = over(seen(image, model.config.view, picture.width), grid, largest)
        assert np.array_equal(np.asarray(picture), np.asarray(wanted))
    assert not np.array_equal(np.asarray(reply.maps[0][0]), np.asarray(reply.maps[1][0]))


@pytest.mark.parametrize(("kind", "told"), [("uniform", "'uniform' has no gate"), ("concat", "'concat' has no gate")])
def test_a_fusion_without_a_gate_has_no_maps_and_says_so(toy: Any, kind: str, told: str) -> None:
    reply = whole(Host(built(toy, fusion={"kind": kind})), toy.pictures(1)[0])
    assert reply.maps == () and told in reply.note and reply.text


def test_where_no_expert_is_on_there_is_no_map(toy: Any) -> None:
    reply = whole(Host(built(toy)), toy.pictures(1)[0], experts=[])
    assert reply.maps == () and "no expert is on" in reply.note


def test_a_model_without_experts_says_so_and_a_merged_one_why(toy: Any) -> None:
    model = built(toy, experts=[])
    assert Host(model).experts == []
    assert "holds no experts" in whole(Host(model), toy.pictures(1)[0], experts=()).note
    model.origin = model.origin.model_copy(update={"own_tower": True})
    assert "was merged and holds no experts" in whole(Host(model), toy.pictures(1)[0]).note


def test_faults_of_a_visitor_are_told_and_the_next_one_is_answered(toy: Any, tmp_path: Path) -> None:
    model = built(toy)
    host, image = Host(model), toy.pictures(1)[0]
    (broken := tmp_path / "broken.png").write_bytes(Path(image).read_bytes()[:90])
    right = whole(host, image, QUESTION).text
    for error, told, question in (
        (ImageError, "truncated", Question(broken, QUESTION)),
        (ImageError, "not an image", Question(b"words", QUESTION)),
        (UnknownExpertError, "no expert 'nobody'", Question(image, QUESTION, ["toy-fine", "nobody"])),
        (DataError, "holds <image> 2 times", Question(image, "<image> or <image>?")),
        (DataError, "half a character", Question(image, "\ud800")),
        (ConfigError, "use shorter text", Question(image, "what? " * 2000)),
    ):
        with pytest.raises(error, match=told):
            list(host.answer(question))
        assert whole(host, image, QUESTION).text == right
    assert model.active_experts == list(toy.experts)


def test_experts_cannot_be_asked_of_a_model_that_has_none(toy: Any) -> None:
    with pytest.raises(ConfigError, match="no experts to switch"):
        whole(Host(built(toy, experts=[])), toy.pictures(1)[0], experts=["toy-fine"])


def test_a_model_that_cannot_write_is_refused(toy: Any) -> None:
    with pytest.raises(ConfigError, match="decoder=None"):
        whole(Host(toy.build(decoder=None)), toy.pictures(1)[0])


def test_an_answer_is_as_long_as_the_host_allows(toy: Any) -> None:
    model = built(toy)
    image = toy.pictures(1)[0]
    assert whole(Host(model, 2), image).text == model.caption(image, max_new_tokens=2)[0] != model.caption(image)[0]


def test_a_visitor_who_leaves_ends_the_writing(toy: Any) -> None:
    model, before = built(toy), threading.active_count()
    with_blanks(model)
    host = Host(model, 200)
    replies = host.answer(Question(toy.pictures(1)[0]))
    next(replies), next(replies)
    replies.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert whole(Host(host.model, 2), toy.pictures(1)[0]).text

from __future__ import annotations

import pytest

from tove_core.errors import ConfigError
from tove_core.evaluation.lmms_eval.options import read_generation


def read(**given):
    said: list[str] = []
    return read_generation(given, said.append), said


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {}),
        ({"temperature": 0}, {}),
        ({"temperature": 0.0, "top_p": 0, "num_beams": 1, "do_sample": False}, {"num_beams": 1}),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
        ({"temperature": "0.7", "top_p": None}, {"do_sample": True, "temperature": 0.7}),
        ({"do_sample": True, "top_k": 5, "seed": 3}, {"do_sample": True, "top_k": 5, "seed": 3}),
        ({"do_sample": True, "temperature": 0}, {}),
        ({"num_beams": 3, "length_penalty": 0.5}, {"num_beams": 3, "length_penalty": 0.5}),
        ({"repetition_penalty": None}, {}),
    ],
)
def test_options_mean_what_other_models_take_them_to_mean(given, options):
    found, said = read(**given)
    assert found.options == options and said == []


def test_what_cannot_be_followed_is_reported_and_nothing_else():
    found, said = read(max_new_tokens=7, image_aspect_ratio="pad", stop_sequences=["\n"], until=[])
    assert found.max_new_tokens == 7 and found.until == () and found.options == {}
    assert said == [
        "generation option image_aspect_ratio='pad' has no meaning for tove and is left out",
        "generation option stop_sequences=['\\n'] has no meaning for tove and is left out",
    ]
    assert read(do_sample=False, temperature=0.2)[1] == ["temperature=0.2 has no effect because do_sample is off"]


@pytest.mark.parametrize("until", ["\n\n", ["\n\n"], ["", "\n\n", "Q:"], ("\n\n",)])
def test_an_answer_ends_before_the_first_of_the_stop_texts(until):
    found, _ = read(until=until)
    assert found.cut("two \n\n three Q: four") == "two" and found.cut("two\nthree") == "two\nthree"
    assert read(until=["\n", "Q:", "a"])[0].cut("bQ: a\n") == "b"
    assert read(until=None)[0].cut(" all of it ") == "all of it"


def test_equal_options_have_equal_keys_whatever_their_order():
    one, two = read(num_beams=2, until="x", max_new_tokens=3)[0], read(max_new_tokens=3, until=["x"], num_beams=2)[0]
    assert one.key == two.key
    assert one.key != read(num_beams=2, until="y", max_new_tokens=3)[0].key
    assert one.key != read(num_beams=2, until="x", max_new_tokens=4)[0].key


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"until": 3}, "until is 3, but a text or a list of texts is wanted"),
        ({"until": [3]}, r"until is \[3\], but"),
        ({"max_new_tokens": "many"}, "max_new_tokens is 'many', but a number is wanted"),
        ({"temperature": "hot"}, "temperature is 'hot', but a number is wanted"),
    ],
)
def test_what_cannot_be_read_is_refused(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read(**given)

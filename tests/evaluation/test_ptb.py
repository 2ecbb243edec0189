from __future__ import annotations

import json
import shutil

import pytest

from tove_core.evaluation.metrics.ptb import tokenize

# Written by Stanford's PTBTokenizer of CoreNLP 3.4.1 (-lowerCase), punctuation dropped as COCO does.
PAIRS = [
    ("A man's T-shirt; it's the dogs' bowl -- they're \"nice\".", "a man 's t-shirt it 's the dogs bowl they 're nice"),
    ("(a dog) [cat] {bird}, hello!! what?!", "-lrb- a dog -rrb- -lsb- cat -rsb- -lcb- bird -rcb- hello !! what ?!"),
    ("don't can't won't cannot gonna couldn't've I'd've", "do n't ca n't wo n't can not gon na could n't 've i 'd 've"),
    ("'57 chevy, rock 'n' roll, the 1980's and '80s", "'57 chevy rock 'n' roll the 1980 's and '80s"),
    (
        "no. 42 bus, he says no. Mr. Smith at 3 p.m. on main st.",
        "no. 42 bus he says no mr. smith at 3 p.m. on main st.",
    ),
    ("he paid £5 and €3 and $4.50 for ½ at 3:30pm, 50%", "he paid # 5 and $ 3 and $ 4.50 for 1/2 at 3:30 pm 50 %"),
    ("#7 and #hash @user foo@bar.com www.x.org", "# 7 and #hash @user foo@bar.com www.x.org"),
    ("so.... many ----- dashes — em. . .", "so many ----- dashes em"),
    ("“smart” ‘quotes’ it’s don’t o’clock o'clock", "smart quotes it 's do n't o’clock o'clock"),
    ("AT&T r&b black/white b/w a/b/c 10-year-old 1,000", "at&t r & b black/white b/w a/b/c 10-year-old 1,000"),
    ("N. America and plan b. The end. A dog.The cat", "n. america and plan b the end a dog.the cat"),
    ("café 東京 😀 half_done * ** 5x7 mid-1900s 26,000-year", "café 東京 half_done * ** 5x7 mid-1900s 26,000-year"),
    ("Mass. is a state, mass. is not", "mass. is a state mass is not"),
    ("5'10\" tall; -5 +3 .5 6-3", "5 10 tall -5 +3 .5 6-3"),
]


@pytest.mark.parametrize(("caption", "tokens"), PAIRS)
def test_captions_are_cut_as_the_java_program_cuts_them(caption, tokens):
    assert " ".join(tokenize(caption)) == tokens


def test_line_breaks_are_spaces_and_nothing_gives_nothing():
    assert tokenize("two\nlines\there") == ["two", "lines", "here"]
    assert tokenize("") == tokenize(" ?. ") == []


@pytest.fixture
def java():
    """Tokenise with the original, one list of tokens per caption."""
    original = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    if shutil.which("java") is None:
        pytest.skip("the original tokeniser needs java, which is not installed")

    def run(captions):
        found = original.PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(captions)})
        return [found[n][0].split() for n in range(len(captions))]

    return run


def test_the_expected_tokens_are_those_of_the_java_program(java):
    assert java([caption for caption, _ in PAIRS]) == [tokens.split() for _, tokens in PAIRS]


@pytest.mark.shared_data
def test_every_real_coco_caption_is_cut_as_by_the_java_program(java, shared_data):
    content = json.loads((shared_data("coco-mini") / "captions.json").read_text())
    captions = [annotation["caption"] for annotation in content["annotations"]]
    assert [tokenize(caption) for caption in captions] == java(captions)


@pytest.mark.shared_data
def test_textbook_captions_are_cut_alike_but_for_few(java, shared_data):
    items = [json.loads(line) for line in (shared_data("openstax") / "items.jsonl").read_text().splitlines()]
    captions = [item["caption"].replace("\n", " ") for item in items if item["caption"]]
    differ = sum(ours != theirs for ours, theirs in zip(map(tokenize, captions), java(captions), strict=True))
    assert differ / len(captions) < 0.02

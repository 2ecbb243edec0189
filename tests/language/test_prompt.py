from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from tove_core.errors import ConfigError, DataError
from tove_core.language.prompt import PromptLayout

PARTS = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def text(tokenizer, ids):
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def test_plain_layout_has_start_image_prompt_and_answer_with_a_leading_space(tokenizer):
    sample = PromptLayout(tokenizer).encode(["how many?"], ["  two circles "])[0]
    assert sample.before == (tokenizer.bos_token_id,)
    assert text(tokenizer, sample.after) == "\nhow many?\n"
    assert text(tokenizer, sample.target) == " two circles</s>"


def test_start_token_is_never_doubled(make_tokenizer):
    layout = PromptLayout(make_tokenizer(adds_start=True), "{prompt}{image} so:")
    before = layout.encode(["<s>a red circle"])[0].before
    assert before.count(0) == 1
    assert layout.encode(["a red circle"])[0].before == before


def test_chat_template_is_respected_with_only_its_own_start_token(chat_tokenizer):
    sample = PromptLayout(chat_tokenizer).encode(["how many?"], ["two"])[0]
    assert text(chat_tokenizer, sample.before) == "<|im_start|>user\n"
    assert text(chat_tokenizer, sample.after) == "\nhow many?<|im_end|>\n<|im_start|>assistant\n"
    assert text(chat_tokenizer, sample.target) == "two</s>"


def test_explicit_template_overrides_the_chat_template(chat_tokenizer):
    sample = PromptLayout(chat_tokenizer, "Q: {prompt} {image}A:").encode(["how {many}?"], ["two"])[0]
    assert text(chat_tokenizer, sample.before) == "<s>Q: how {many}? "
    assert text(chat_tokenizer, sample.after) == "A:"
    assert text(chat_tokenizer, sample.target) == " two</s>"


def test_template_with_content_parts_places_the_image(make_tokenizer):
    tokenizer = make_tokenizer(PARTS)
    sample = PromptLayout(tokenizer).encode(["how many?"], ["two"])[0]
    assert text(tokenizer, sample.before) == "USER: "
    assert text(tokenizer, sample.after) == "\nhow many? ASSISTANT:"
    assert text(tokenizer, sample.target) == " two</s>"


def test_prompt_ids_do_not_depend_on_the_answer(tokenizer):
    layout = PromptLayout(tokenizer, "{image}{prompt}")
    first, second = layout.encode(["red", "red"], ["circle", "!"])
    assert (first.before, first.after) == (second.before, second.after)


def test_texts_that_are_encoded_together_get_the_ids_each_gets_alone(tokenizer):
    layout = PromptLayout(tokenizer)
    pairs = [("how many?", "two"), ("red?", "yes"), ("red?", " "), ("how many?", "two circles"), ("red?", "yes ")]
    together = layout.encode(*map(list, zip(*pairs, strict=True)))
    assert together == [layout.encode([prompt], [answer])[0] for prompt, answer in pairs]
    assert together[2].target == (layout.end,)
    assert [one.target for one in layout.encode(["red?"] * 2, ["", " "])] == [(layout.end,)] * 2


def test_a_prompt_that_several_samples_have_is_laid_out_once(chat_tokenizer, monkeypatch):
    layout, shown = PromptLayout(chat_tokenizer), []
    wanted = [layout.encode([prompt])[0] for prompt in ("how many?", "red", "how many?")]
    render = layout.render
    monkeypatch.setattr(layout, "render", lambda prompt: shown.append(prompt) or render(prompt))
    assert layout.encode(["how many?", "red", "how many?"]) == wanted
    assert shown == ["how many?", "red"]


def test_ids_around_the_image_are_those_of_one_piece_of_text():
    # Metaspace "first" puts a blank only at a text's beginning, which text after an image is not.
    vocab = {"<unk>": 0, "</s>": 1, "▁": 2, "a": 3, "▁a": 4, "b": 5, "▁b": 6, "<image>": 7}
    unigram = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>", additional_special_tokens=["<image>"]
    )
    sample = PromptLayout(tokenizer, "{image}{prompt}").encode(["a b"], ["b"])[0]
    assert sample.before == ()
    assert sample.after == (3, 6)
    assert sample.target == (6, 1)


def test_wordpiece_begins_with_cls_and_ends_with_sep(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "two", "circles", "how", "many", "?"]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    sample = PromptLayout(tokenizer, start=True).encode(["How many?"], ["two circles"])[0]
    assert sample.before == (2,)
    assert sample.after == (7, 8, 9)
    assert sample.target == (5, 6, 3)


def test_the_given_tokenizer_is_not_changed(make_tokenizer):
    tokenizer = make_tokenizer()
    PromptLayout(tokenizer)
    assert "<image>" not in tokenizer.get_vocab()


def test_an_empty_answer_is_its_end_token_alone(tokenizer):
    assert PromptLayout(tokenizer).encode(["how many?"], [" "])[0].target == (tokenizer.eos_token_id,)


def test_decoding_inverts_encoding(tokenizer):
    layout = PromptLayout(tokenizer)
    target = layout.encode([""], ["two or three"])[0].target
    assert layout.decode([*target, 5, 6]) == "two or three"


def test_bad_prompts_are_refused(tokenizer):
    layout = PromptLayout(tokenizer)
    with pytest.raises(DataError, match="list of prompts is empty"):
        layout.encode([])
    with pytest.raises(DataError, match="2 prompts came with 1 targets"):
        layout.encode(["a", "b"], ["a"])
    with pytest.raises(DataError, match="take it out"):
        layout.encode(["a"], ["<image>"])


def test_a_chat_template_without_a_place_for_the_image_is_refused(make_tokenizer):
    with pytest.raises(ConfigError, match=r"set decoder\.prompt"):
        PromptLayout(make_tokenizer("{{ messages | length }}"))


def test_a_tokenizer_without_an_end_token_is_refused(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="neither an eos nor a sep"):
        PromptLayout(tokenizer)


def test_a_target_that_holds_the_end_token_is_refused(tokenizer):
    with pytest.raises(DataError, match="target 'two </s> three' holds '</s>', which ends an answer"):
        PromptLayout(tokenizer).encode(["how many?"], ["two </s> three"])


def test_special_tokens_that_a_text_spells_are_told(make_tokenizer, tokenizer, chat_tokenizer):
    assert PromptLayout(tokenizer).control_tokens("a </s> b <image> c") == ["</s>"]
    layout = PromptLayout(chat_tokenizer)
    assert layout.control_tokens("a <image> b") == []
    text = "hi<|im_end|>\n<|im_start|>assistant\nyes"
    assert layout.control_tokens(text) == ["<|im_end|>", "<|im_start|>"]


def test_words_that_a_tokenizer_does_not_know_are_no_special_tokens_unless_they_spell_one():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "two"]
    layout = PromptLayout(BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}), start=True)
    assert layout.control_tokens("two zebras") == []
    assert layout.control_tokens("two [UNK] [SEP] two") == ["[UNK]", "[SEP]"]

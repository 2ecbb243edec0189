"""Several images at their own places in a prompt, against sequences put together by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tove_core.errors import DataError
from tove_core.language.batch import assemble
from tove_core.language.marks import wrong_marks
from tove_core.language.prompt import EncodedText, PromptLayout

N = 5
MARKED = [
    "<image>a red circle<image> or two?<image>",
    "how many? <image><image> Describe: <image> above",
    "a blue circle above two circles?",
]
FAMILIES = ["llama", "gpt2", "gemma2", "bert", "mamba"]
PARTS = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.fixture
def images() -> torch.Tensor:
    """Give the tokens of three images for each of three samples, [3, 3 * N, 11]."""
    return torch.randn(3, 3 * N, 11, generator=torch.Generator().manual_seed(8))


def by_hand(decoder, tokens: torch.Tensor, text: EncodedText) -> torch.Tensor:
    """Return [1, L, hidden] of one sample, tokens [images, N, D]: text and images piece by piece."""
    embed = decoder.language_model.get_input_embeddings()
    pieces = [text.before, *text.between, text.after]
    shown = [decoder.projector(one[None]) for one in tokens]
    sequence = [embed(torch.tensor([pieces[0]]).long())]
    for image, piece in zip(shown, pieces[1:], strict=True):
        sequence += [image, embed(torch.tensor([piece]).long())]
    return torch.cat(sequence, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_images_tokens_stand_at_its_mark(make, images, family):
    decoder = make(family)
    for i in range(2):
        text = decoder.encode(MARKED[i : i + 1], ["two or three"])[0]
        assert text.places == 3
        sequence = by_hand(decoder, images[i].view(3, N, -1), text)
        embed = decoder.language_model.get_input_embeddings()
        whole = torch.cat([sequence, embed(torch.tensor([text.target]))], 1)
        logits = decoder.language_model(inputs_embeds=whole).logits[0, sequence.shape[1] - 1 : -1]
        wanted = functional.cross_entropy(logits, torch.tensor(text.target), reduction="sum")
        found = decoder(images[i : i + 1], MARKED[i : i + 1], ["two or three"]).loss_sum
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_that_of_the_sequence_by_hand(make, images, family):
    decoder = make(family)
    text = decoder.encode(MARKED[:1])[0]
    sequence, embed = by_hand(decoder, images[0].view(3, N, -1), text), decoder.language_model.get_input_embeddings()
    ids: list[int] = []
    with torch.no_grad():
        for _ in range(7):
            ids.append(int(decoder.language_model(inputs_embeds=sequence).logits[0, -1].argmax()))
            sequence = torch.cat([sequence, embed(torch.tensor([ids[-1:]]))], 1)
    assert decoder.generate(images[:1], MARKED[:1]) == [decoder.layout.decode(ids)]
    assert "".join(decoder.stream(images[:1], MARKED[0])) == decoder.layout.decode(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_marked_and_unmarked_prompts_gives_what_each_gives_alone(make, images, targets, family):
    decoder = make(family)
    together = decoder(images, MARKED, targets)
    for i in range(3):
        alone = decoder(images[i : i + 1], MARKED[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(together.loss_per_sample[i], alone.loss_sum, rtol=1e-4, atol=1e-4)
    for beams in (1, 3):
        said = [decoder.generate(images[i : i + 1], MARKED[i : i + 1], num_beams=beams)[0] for i in range(3)]
        assert decoder.generate(images, MARKED, num_beams=beams) == said


def test_places_and_order_matter_and_gradients_reach_every_image(make, images):
    decoder = make("llama")
    turned = images.view(3, 3, N, -1).flip(1).reshape(images.shape)
    bare = [prompt.replace("<image>", "") for prompt in MARKED]
    losses = [
        decoder(tokens[:2], prompts[:2], ["two", "a"]).loss_sum
        for tokens, prompts in ((images, MARKED), (turned, MARKED), (images, bare))
    ]
    assert len({round(float(loss.detach()), 4) for loss in losses}) == 3
    seen = images.clone().requires_grad_()
    decoder(seen, MARKED, ["two"] * 3).loss_sum.backward()
    assert seen.grad is not None and (seen.grad.abs().sum(2) > 0).all()


@pytest.mark.parametrize("template", ["auto", "{image}{prompt} ", "Q: {image} {prompt}\n", "chat", "parts"])
def test_one_mark_in_front_is_the_prompt_without_marks(make_tokenizer, chat_tokenizer, template):
    given = {"chat": chat_tokenizer, "parts": make_tokenizer(PARTS)}.get(template) or make_tokenizer()
    layout = PromptLayout(given, "auto" if template in ("chat", "parts") else template)
    blank = {"{image}{prompt} ": "", "Q: {image} {prompt}\n": " "}.get(template, "\n")
    assert layout.render(f"<image>{blank}how many?") == layout.render("how many?")
    assert layout.encode([f"<image>{blank}how many?"]) == layout.encode(["how many?"])


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{image}\n{prompt}\n", "a <image> b\n"),
        ("{prompt} {image} so:", "a <image> b so:"),
        ("{prompt}{image} so:", "a <image> b so:"),
        ("{image}{prompt}", "a <image> b"),
    ],
)
def test_the_templates_own_place_goes_where_the_prompt_has_marks(tokenizer, template, wanted):
    assert PromptLayout(tokenizer, template).render("a <image> b") == wanted


def test_a_template_that_shows_fewer_places_is_refused(make_tokenizer):
    cut = "{% for m in messages %}{{ (m['content'] | replace('<image> b', '')) }}{% endfor %}"
    with pytest.raises(DataError, match=r"needs 2 places for images, but the tokenizer's chat template shows 1"):
        PromptLayout(make_tokenizer(cut)).encode(["<image> a <image> b"])


def test_cross_attention_drops_the_marks_and_keeps_all_images(make, images):
    decoder = make("bert", kind="cross-attention")
    text = decoder.encode(MARKED[:1])[0]
    joined = EncodedText((*text.before, *(i for gap in text.between for i in gap)), text.after, (7, 8, 1))
    marked = EncodedText(text.before, text.after, (7, 8, 1), text.between)
    torch.testing.assert_close(decoder(images[:1], [marked]).loss_sum, decoder(images[:1], [joined]).loss_sum)
    together = decoder.generate(images, MARKED)
    assert together == [decoder.generate(images[i : i + 1], MARKED[i : i + 1])[0] for i in range(3)]


def test_the_layout_of_a_batch_has_equal_shares_at_each_place():
    texts = [EncodedText((9,), (8,), (1,), ((5, 6), ())), EncodedText((), (7, 7))]
    batch = assemble(texts, image=6, pad=0, side="left")
    assert batch.ids.tolist() == [[9, 0, 0, 5, 6, 0, 0, 0, 0, 8, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7]]
    assert batch.image_mask.int().tolist() == [[0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0]]
    assert batch.attention_mask.tolist()[1] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_marks_and_images_must_be_as_many(make, images):
    assert wrong_marks("<image> and <image>", 2) is None and wrong_marks("none", 5) is None
    fault = wrong_marks("<image> and <image>", 3)
    assert fault is not None and "holds <image> 2 times for 3 images" in fault
    with pytest.raises(DataError, match=r"marks 2 places for images, but 15 tokens cannot be shared"):
        make("llama")(images[:1], ["<image> and <image>"], ["a"])

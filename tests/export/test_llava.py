from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, LlavaForConditionalGeneration

from tove_core.config import TrainingConfig
from tove_core.errors import CheckpointError, ConfigError
from tove_core.export import llava_model
from tove_core.export.llava import write_llava
from tove_core.export.llava_model import llava_model as assembled
from tove_core.training import fit

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '|' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% if enable_thinking is not defined %}hm{% endif %}{% endif %}"
)
PARTS = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ':' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}\nreply:"
)
READER = """
import sys, torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
folder, picture = sys.argv[1:]
processor, model = AutoProcessor.from_pretrained(folder), LlavaForConditionalGeneration.from_pretrained(folder)
content = [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": "what colour is it?"}]
given = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
    return_tensors="pt")
said = model.generate(**given)[:, given["input_ids"].shape[1]:]
assert not any(name.startswith("tove") for name in sys.modules)
print(ascii(processor.batch_decode(said, skip_special_tokens=True)[0].strip()))
"""


def said(folder: Path, images: list[Any], question: str, new: int = 5) -> list[str]:
    """What transformers alone answers, one image or list of images at a time, greedily."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    answers = []
    for one in images:
        shown = [Image.open(image) for image in (one if isinstance(one, list) else [one])]
        content = [{"type": "image", "image": image} for image in shown] + [{"type": "text", "text": question}]
        given = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        ).to(model.dtype)  # fmt: skip
        ids = model.generate(**given, max_new_tokens=new, do_sample=False)[:, given["input_ids"].shape[1] :]
        answers.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
    return answers


def pictures(toy: Any, folder: Path, size: tuple[int, int] = (40, 40)) -> list[Path]:
    """Return four of the toy's pictures at the size that is seen."""
    images = [folder / f"{place}.png" for place in range(4)]
    for path, image in zip(toy.pictures(4), images, strict=True):
        Image.open(path).resize(size).save(image)
    return images


def check(model: Any, folder: Path, toy: Any, question: str = "what colour is it?", **options: Any) -> Any:
    """Export, and let transformers answer as the model does."""
    report = write_llava(model, folder, **options)
    assert report.feature_difference <= 1e-5 * report.feature_scale
    assert report.logit_difference <= 1e-4 * report.logit_scale
    # Of the size that is seen: elsewhere transformers rounds pixels once more, which turns an answer now and then.
    images = pictures(toy, folder.parent, model.tower.input.size)
    ours = model.answer(images, question)
    assert len(set(ours)) > 1, "the answers must depend on the image to show anything"
    assert said(folder, images, question) == ours
    return report


def test_that_a_model_was_never_trained_is_said(toy: Any, tmp_path: Path) -> None:
    model = toy.build([])
    with pytest.warns(UserWarning, match="this model was never trained: its LLaVA says nothing"):
        write_llava(model, tmp_path / "out")


@pytest.mark.parametrize(
    "family", ["llama", "llama tied", "qwen2 tied", "mistral", "mamba", "gemma tied", "gpt2 tied", "gpt_neox"]
)
def test_transformers_answers_as_the_model_does(toy: Any, language: Any, tmp_path: Path, family: str) -> None:
    model = toy.build([], decoder={"name": language(family)})
    report = check(model, tmp_path / "out", toy)
    written: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    tied = written.lm_head.weight is written.get_input_embeddings().weight
    assert tied == (family in {"llama tied", "qwen2 tied", "gemma tied"})
    assert report.parameters == sum(p.numel() for p in written.parameters())


@pytest.mark.parametrize(("kind", "layer"), [("clip", -2), ("clip", -1), ("clip", 0), ("siglip", -2), ("siglip", -1)])
def test_towers_of_transformers_and_their_layers(
    toy: Any, transformers_clip: Any, tmp_path: Path, kind: str, layer: int
) -> None:
    model = toy.build([], clip={"name": transformers_clip(kind), "layer": layer})
    check(model, tmp_path / "out", toy)
    config: Any = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.vision_feature_layer == (layer if layer < 0 else layer - 3)
    assert config.vision_feature_select_strategy == ("full" if kind == "siglip" else "default")


def test_quick_gelu_another_image_size_and_another_layer_are_carried_over(toy: Any, tmp_path: Path) -> None:
    model = toy.build([], clip={"name": toy.quick_clip, "image_size": 56, "layer": -1})
    check(model, tmp_path / "out", toy)
    config: Any = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.vision_config.hidden_act == "quick_gelu" and config.vision_config.image_size == 56
    assert config.image_seq_length == 49


@pytest.mark.parametrize("view", ["crop", "pad"])
def test_the_region_that_is_seen_is_written_into_the_processor(toy: Any, tmp_path: Path, view: str) -> None:
    model = toy.build([], view=view)
    write_llava(model, tmp_path / "out")
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "out")
    picture = Image.new("RGB", (80, 40), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 20, 40))
    ours = model.preprocessor()([picture])["clip"]
    theirs = processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    assert (ours - theirs).abs().max() < 0.06
    outside = {"crop": (20, 2), "pad": (2, 20)}[view]
    colour = theirs[0, :, *outside] * torch.tensor(model.tower.input.std) + torch.tensor(model.tower.input.mean)
    wanted = torch.tensor([1.0, 0, 0]) if view == "crop" else torch.tensor(model.tower.input.mean)
    assert torch.allclose(colour, wanted, atol=5e-3)


@pytest.mark.parametrize(
    ("prompt", "chat", "adds_start"),
    [
        ("auto", None, False),
        ("auto", None, True),
        ("{image}{prompt}", None, True),
        ("Sieh 'das' \\ \u00fc\U0001f600 {image} an:\n\n {prompt}  Antwort:", None, False),
        ("Q: {prompt} {image}\n", None, False),
        ("BREAK {image} REMARK: {prompt}\n", None, True),
        ("auto", CHATML, False),
        ("auto", CHATML, True),
        ("auto", PARTS, True),
    ],
)
def test_prompts_are_what_the_model_was_trained_on(
    toy: Any, language: Any, tmp_path: Path, prompt: str, chat: str | None, adds_start: bool
) -> None:
    name = language("llama", chat=chat, adds_start=adds_start)
    model = toy.build([], decoder={"name": name, "prompt": prompt})
    write_llava(model, tmp_path / "out")
    one, two = toy.pictures(2)
    for images, question in (
        ([one, two], "is it {black}?"),
        ([[one, two], [two, one]], "the same?"),
        ([[one, two], [two, one]], "is <image> in <image>?"),
    ):
        assert said(tmp_path / "out", images, question) == model.answer(images, question)


def test_text_that_the_template_gives_needs_nothing_from_the_tokenizer(toy: Any, language: Any, tmp_path: Path) -> None:
    model = toy.build([], decoder={"name": language("llama", adds_start=True)})
    write_llava(model, tmp_path / "out")
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "out")
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": " a red square "},
        {"role": "user", "content": "and now?"},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == "<s><image>\nwhat?\n a red square</s>and now?\n"
    first = processor.apply_chat_template(turns[:1], add_generation_prompt=True)
    ids = processor(images=[Image.open(toy.pictures(1)[0])], text=first)["input_ids"][0]
    wanted = model.decoder.encode(["what?"])[0]
    assert ids == [*wanted.before, *[processor.image_token_id] * 25, *wanted.after]
    with pytest.raises(TemplateError, match="user and assistant alone"):
        processor.apply_chat_template([{"role": "system", "content": "be kind"}])


def test_a_batch_is_padded_on_the_left(toy: Any, tmp_path: Path) -> None:
    model = toy.build([])
    write_llava(model, tmp_path / "out")
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "out")
    written: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    questions = ["is it black?", "what colour is it, green or blue?"]
    shown = [[{"type": "image"}, {"type": "text", "text": question}] for question in questions]
    texts = [processor.apply_chat_template([{"role": "user", "content": one}]) for one in shown]
    paths = pictures(toy, tmp_path)[:2]
    images = [[Image.open(path)] for path in paths]
    given = processor(images=images, text=texts, padding=True, return_tensors="pt")
    ids = written.generate(**given)[:, given["input_ids"].shape[1] :]
    answers = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    assert answers == model.answer(paths, questions)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_the_language_models_or_asked_for(toy: Any, tmp_path: Path, dtype: str) -> None:
    model = toy.build([], decoder={"dtype": dtype})
    report = write_llava(model, tmp_path / "own")
    asked = write_llava(toy.build([]), tmp_path / "asked", dtype=dtype)
    for folder, one in (("own", report), ("asked", asked)):
        assert LlavaForConditionalGeneration.from_pretrained(tmp_path / folder).dtype == getattr(torch, dtype)
        assert one.dtype == dtype and 0 < one.rounding_difference < 0.1 * one.logit_scale
        # With the same rounded weights the two are as near as in float32.
        assert one.logit_difference < 1e-5 * one.logit_scale
    wide = write_llava(model, tmp_path / "wide", dtype="float32")
    assert wide.rounding_difference < 1e-4 * wide.logit_scale


def test_adapters_become_part_of_the_weights(toy: Any, tmp_path: Path) -> None:
    model = toy.build(decoder={"train": "lora", "lora": {"rank": 3, "alpha": 6}})
    settings = TrainingConfig(steps=6, batch_size=5, learning_rate=3e-2, warmup=1)
    fit(model, toy.examples(model), settings, quiet=True)
    for name in toy.experts:
        model.detach(name)
    model.prune()
    report = write_llava(model, tmp_path / "out")
    assert report.rounding_difference < 1e-4 * report.logit_scale
    before = AutoModelForCausalLM.from_pretrained(toy.decoder).state_dict()
    after: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").model.language_model
    changed = before["model.layers.0.self_attn.q_proj.weight"] - after.layers[0].self_attn.q_proj.weight
    assert changed.abs().max() > 1e-3


@pytest.mark.parametrize("spare", [0, 7])
def test_the_image_token_has_a_row_and_is_never_said(toy: Any, language: Any, tmp_path: Path, spare: int) -> None:
    model = toy.build([], decoder={"name": language("llama", spare=spare)})
    write_llava(model, tmp_path / "out")
    written: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    token, size = written.config.image_token_id, model.decoder.vocabulary
    assert (
        written.get_input_embeddings().weight.shape[0] == written.config.text_config.vocab_size == max(size, token + 1)
    )
    assert written.generation_config.suppress_tokens == [token]
    if spare == 0:
        # The mean of the others, below the largest of them in every logit, so that readers without that list are safe.
        logits = written(torch.arange(size)[None]).logits[0]
        assert (logits[:, token] < logits[:, :token].max(1).values).all()


def test_a_process_without_tove_answers_the_same(toy: Any, tmp_path: Path) -> None:
    model = toy.build([])
    write_llava(model, tmp_path / "out")
    assert (tmp_path / "out" / "tove_export.json").is_file()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-c", READER, str(tmp_path / "out"), str(toy.pictures(1)[0])]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == ascii(model.answer(toy.pictures(1), "what colour is it?")[0])


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gemma2", "scaling or capping logits"),
        ("phi", "'lm_head.bias'"),
        ("bert", "cls.predictions"),
    ],
)
def test_language_models_that_a_llava_cannot_hold_are_refused(
    toy: Any, language: Any, tmp_path: Path, family: str, message: str
) -> None:
    model = toy.build([], decoder={"name": language(family)})
    with pytest.raises((ConfigError, CheckpointError), match=message):
        write_llava(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [family]


def test_models_that_are_no_llava_are_refused(toy: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"the model has 3 experts .*no other format .*'tove merge'"):
        write_llava(toy.build(), out)
    with pytest.raises(ConfigError, match=r"'clip-mlp' changes CLIP's tokens"):
        write_llava(toy.build([], fusion="clip-mlp"), out)
    with pytest.raises(ConfigError, match="decoder=None"):
        write_llava(toy.build([], decoder=None), out)
    model = toy.build([])
    model.decoder.config = model.decoder.config.model_copy(update={"quantize": "4bit"})
    with pytest.raises(ConfigError, match="held in 4bit"):
        write_llava(model, out)
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="exists already"):
        write_llava(toy.build([]), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # as it was


def test_a_decoder_that_looks_at_the_image_is_refused(toy: Any, language: Any, tmp_path: Path) -> None:
    model = toy.build([], decoder={"name": language("gpt2 tied"), "kind": "cross-attention"})
    with pytest.raises(ConfigError, match="'cross-attention', but a LLaVA's image stands before"):
        write_llava(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_ln_pre": True}, "no norm before"),
        ({"ls_init_value": 0.1}, "plain ones"),
        ({"image_size": [40, 24]}, "square"),
    ],
)
def test_a_tower_of_another_form_is_refused(
    toy: Any, make_tower: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model = toy.build([])
    model.tower = make_tower(vision=change)
    with pytest.raises(ConfigError, match=f"cannot be a LLaVA's.*{message}"):
        write_llava(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_text_tower_and_the_pooling_may_be_of_any_form(make_tower: Any) -> None:
    tower = make_tower(vision={"pool_type": "avg"}, text={"no_causal_mask": True}, custom_text=True)
    config, state = llava_model.vision_part(tower)
    theirs: Any = transformers.CLIPVisionModel(config).eval()
    getattr(theirs, "vision_model", theirs).load_state_dict(state)
    pixels = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        hidden = theirs(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(hidden, tower(pixels).patches, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("part", ["activation", "layer", "projector", "head", "prompt", "view"])
def test_what_computes_something_else_never_reaches_the_disk(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    from tove_core.export import llava, llava_processor

    def wrong(*given: Any) -> Any:
        written: Any = assembled(*given)
        inner = written.model
        if part == "activation":
            written.config.vision_config.hidden_act = "quick_gelu"
        elif part == "layer":
            written.config.vision_feature_layer = -1
        elif part == "projector":
            inner.multi_modal_projector.linear_1.bias.data.add_(1e-3)
        elif part == "head":
            written.lm_head.weight.data[5].add_(1e-3)
        return written

    monkeypatch.setattr(llava, "llava_model", wrong)
    if part == "prompt":
        monkeypatch.setattr(llava_processor, "chat_template", lambda layout: "{{ '<image> ' }}")
    if part == "view":
        own = llava_processor.image_settings
        monkeypatch.setattr(llava_processor, "image_settings", lambda tower, view: own(tower, "crop"))
    with pytest.raises(CheckpointError, match=r"differ|processor makes ids"):
        write_llava(toy.build([]), tmp_path / "out", dtype="bfloat16")
    assert list(tmp_path.iterdir()) == []

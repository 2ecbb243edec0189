"""Where image, prompt and answer stand in a decoder's sequence, in token ids."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jinja2
from transformers import PreTrainedTokenizerBase

from tove_core.errors import ConfigError, DataError
from tove_core.language.marks import IMAGE, wrong_text

PLAIN = "{image}\n{prompt}\n"
"""What `auto` means for a tokenizer without a chat template."""
_PROBE, _REPLY = "tove prompt probe", "tove reply probe"
_PLACE = re.compile(r"(?<!\S)\{image\}\s?|\{image\}")


def without_place(template: str) -> str:
    """Return a template without its image's place and one of the blanks around it."""
    return _PLACE.sub("", template)


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One sample's text in token ids; the image, or all its images, stand between `before` and `after`."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    target: tuple[int, ...] = ()
    """The answer and its end token; empty where only a prompt was encoded."""
    between: tuple[tuple[int, ...], ...] = ()
    """Where each of several images has a place of its own: the text from one to the next, in order."""

    @property
    def places(self) -> int:
        """How many places there are for images."""
        return len(self.between) + 1


class TemplateForm(NamedTuple):
    """What `PromptLayout.render` goes by, beside the tokenizer's chat template where it uses that."""

    template: str
    """Text with {image} and {prompt}; of no meaning with a chat template."""
    parts: bool
    """Whether the chat template takes messages as lists of parts."""
    gap: str
    """What separates prompt and answer."""


class PromptLayout:
    """Turns prompts and answers into token ids around an image, or several.

    A prompt may mark the places of its images by `<image>`; the template's own place is then left out, with one of the
    blanks around it, so that a mark and a line feed at the beginning say what `auto` says without marks.

    All text is tokenised in one piece around an image token, which a private copy of the tokenizer knows, so ids are
    those that a LLaVA processor with this tokenizer gives. Answers are tokenised on their own, hence the prompt's ids
    never depend on the answer.

    Args:
        tokenizer: the language model's own; it is not changed.
        template: `auto` (the chat template if there is one, else `PLAIN`) or text with {image} and {prompt}.
        start: always begin with a special token, for decoders in which no image precedes the text.

    Raises:
        ConfigError: the tokenizer has no end token, or its chat template cannot place an image.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str = "auto", *, start: bool = False) -> None:
        self.tokenizer = tokenizer
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if end is None:
            raise ConfigError("the tokenizer has neither an eos nor a sep token; choose one that can end an answer")
        self.end: int = _one(end)
        self._encoder = copy.deepcopy(tokenizer)
        if IMAGE not in self._encoder.get_vocab():
            self._encoder.add_tokens([IMAGE], special_tokens=True)
        self._image = _one(self._encoder.convert_tokens_to_ids(IMAGE))
        self.chat = template == "auto" and bool(tokenizer.chat_template)
        self._template = PLAIN if template == "auto" else template
        self._parts = self._chat_form() if self.chat else False
        self._gap = self._gap_before_answer()
        self.start: tuple[int, ...] = () if self.chat and not start else self._start(start)

    def render(self, prompt: str) -> str:
        """Return the text before the answer with `<image>` in its place, without the start tokens of `start`."""
        if not self.chat:
            # One pass: braces inside the prompt stay as they are.
            marked = IMAGE in prompt
            head, tail = (without_place(self._template) if marked else self._template).split("{prompt}")
            return head.replace("{image}", IMAGE) + prompt + tail.replace("{image}", IMAGE)
        return self._chat(prompt, self._parts)

    @property
    def form(self) -> TemplateForm:
        """How a prompt is laid out, for those who write it down in another language."""
        return TemplateForm(self._template, self._parts, self._gap)

    def encode(self, prompts: Sequence[str], targets: Sequence[str] | None = None) -> list[EncodedText]:
        """Return ids for each prompt, with the ids of its target and the end token where targets are given.

        Raises:
            DataError: the lists are empty or of different lengths, one is no text or has half a character, a target
                holds the image's mark or the end token, or the template does not show a prompt's marks.
        """
        if not prompts:
            raise DataError("the list of prompts is empty; give one prompt per image")
        if targets is not None and len(targets) != len(prompts):
            raise DataError(f"{len(prompts)} prompts came with {len(targets)} targets; give one target per prompt")
        if fault := next(filter(None, map(wrong_text, prompts)), None):
            raise DataError(fault)
        answers = [()] * len(prompts) if targets is None else self._targets(targets)
        shown = {prompt: self.render(prompt) for prompt in dict.fromkeys(prompts)}  # a chat template takes its time
        rendered = self._ids(shown[prompt] for prompt in prompts)
        return [self._split(*one) for one in zip(rendered, prompts, answers, strict=True)]

    def control_tokens(self, text: str) -> list[str]:
        """Return the special tokens that the language model would read in a text, in order; `<image>` is none.

        A text and the template around it are tokenised together, so that what spells a special token is one.
        """
        added = self._encoder.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(one for one, token in added.items() if token.special)}
        found = [one for one in self._ids([text])[0] if one in special and one != self._image]
        names = [str(self.tokenizer.convert_ids_to_tokens(one)) for one in found]
        # What a tokenizer does not know may become a special token too, without being spelt.
        return [name for name in names if name != self.tokenizer.unk_token or name in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the answer in generated ids: up to the end token, without special tokens or surrounding blanks."""
        ids = list(ids)
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _split(self, ids: list[int], prompt: str, target: tuple[int, ...]) -> EncodedText:
        places = [place for place, one in enumerate(ids) if one == self._image]
        if len(places) != (wanted := max(1, prompt.count(IMAGE))):
            raise DataError(
                f"prompt {prompt!r:.80} needs {wanted} places for images, but the tokenizer's chat template shows "
                f"{len(places)}; set decoder.prompt to a template such as '{{image}}\\n{{prompt}}\\n'"
            )
        before = tuple(ids[: places[0]])
        if self.start and before[: len(self.start)] != self.start:
            before = self.start + before
        between = tuple(tuple(ids[one + 1 : other]) for one, other in pairwise(places))
        return EncodedText(before, tuple(ids[places[-1] + 1 :]), target, between)

    def _targets(self, targets: Sequence[str]) -> list[tuple[int, ...]]:
        if fault := next(filter(None, (wrong_text(text, "target") for text in targets)), None):
            raise DataError(fault)
        texts = [text.strip() for text in targets]
        # The image token in front makes it text that goes on, so that no tokenizer treats it as a sequence's start.
        encoded = iter(self._ids([IMAGE + self._gap + text for text in texts if text]))
        return [self._answer(text, next(encoded)) if text else (self.end,) for text in texts]

    def _answer(self, text: str, ids: list[int]) -> tuple[int, ...]:
        if ids.count(self._image) != 1:
            raise DataError(f"target {text!r} holds {IMAGE!r}, which marks the image's place; take it out")
        if self.end in ids:
            end = self.tokenizer.convert_ids_to_tokens(self.end)
            raise DataError(f"target {text!r:.80} holds {end!r}, which ends an answer and comes behind it; take it out")
        return (*ids[1:], self.end)

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text. Of those that are alike, as short answers often are, one is encoded."""
        texts = list(texts)
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return []
        found = dict(zip(distinct, self._encoder(distinct, add_special_tokens=False)["input_ids"], strict=True))  # type: ignore[arg-type]
        return [found[text] for text in texts]

    def _start(self, required: bool) -> tuple[int, ...]:
        ids = list(self._encoder.encode(IMAGE, add_special_tokens=True))
        added = tuple(ids[: ids.index(self._image)])
        if added:
            return added
        if self.tokenizer.bos_token_id is not None:
            return (_one(self.tokenizer.bos_token_id),)
        return (self.end,) if required else ()

    def _gap_before_answer(self) -> str:
        """Return what separates prompt and answer: what the chat template writes there, else a space."""
        shown = self.render(_PROBE)
        if not self.chat:
            return "" if shown.endswith(" ") else " "
        full = self._chat(_PROBE, self._parts, reply=_REPLY)
        gap = full[len(shown) :].partition(_REPLY)[0] if full.startswith(shown) else None
        if gap is not None and not gap.strip():
            return gap
        return "" if shown[-1:].isspace() else " "

    def _chat_form(self) -> bool:
        """Return whether messages are lists of parts (as in LLaVA's template) rather than strings."""
        for parts in (False, True):
            try:
                shown = self._chat(_PROBE, parts)
            except (jinja2.TemplateError, TypeError):
                continue
            if shown.count(IMAGE) == 1 and shown.count(_PROBE) == 1:
                return parts
        raise ConfigError(
            "the tokenizer's chat template does not show one image and one prompt; set decoder.prompt to a template "
            "such as '{image}\\n{prompt}\\n'"
        )

    def _chat(self, prompt: str, parts: bool, reply: str | None = None) -> str:
        marked = IMAGE in prompt
        content: Any = prompt if marked else f"{IMAGE}\n{prompt}"
        answer: Any = reply
        if parts:
            # Marks stay in the text: many templates put all images of their own in front.
            content = [*([] if marked else [{"type": "image"}]), {"type": "text", "text": prompt}]
            answer = [{"type": "text", "text": reply}]
        messages = [{"role": "user", "content": content}]
        if reply is not None:
            messages.append({"role": "assistant", "content": answer})
        # Templates of reasoning models read enable_thinking; all others ignore it.
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=reply is None, enable_thinking=False
            )
        )


def _one(value: Any) -> int:
    """Return a token id; the library types it as one or several."""
    return int(value[0] if isinstance(value, list) else value)

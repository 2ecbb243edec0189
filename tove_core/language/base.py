"""What every decoder can do: give the loss of answers, and generate them, from vision tokens and prompts."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tove_core.config import DecoderConfig
from tove_core.errors import ConfigError, DataError
from tove_core.language.batch import TextBatch, assemble
from tove_core.language.draws import Draws, sampled_by
from tove_core.language.given import check_finite, check_tokens, listed_texts
from tove_core.language.head import only_rows
from tove_core.language.lora import adapted, adapter_parameters, add_lora
from tove_core.language.options import check_options, check_padding, check_values, refused_by_transformers
from tove_core.language.positions import first_position, position_ids
from tove_core.language.projector import Projector
from tove_core.language.prompt import EncodedText, PromptLayout
from tove_core.language.stream import stream

Texts = Sequence[str] | Sequence[EncodedText]
"""Prompts as strings, or encoded once by `Decoder.encode` and kept."""


@dataclass(frozen=True)
class DecoderIdentity:
    """Where a decoder's language model comes from; saved with every run."""

    name: str
    kind: str
    architecture: str
    revision: str | None = None
    """Commit of the hub repository; None for a local folder."""
    sha256: str | None = None
    """Of the weight files, in order of their names; None for random weights."""
    weights: str = "pinned"
    """`pinned` (loaded) or `random`."""


@dataclass(frozen=True)
class DecoderOutput:
    """Loss of a batch over its A answer tokens (end tokens included), in float32."""

    loss_sum: Tensor
    """[] sum of the cross-entropies of all answer tokens, in nats."""
    token_count: Tensor
    """[] their number A; divide by the sum of it over the global batch."""
    loss_per_sample: Tensor
    """[B] the same sum for each sample."""
    tokens_per_sample: Tensor
    """[B] answer tokens of each sample."""
    logits: Tensor
    """[A, V] what predicted each answer token, sample after sample."""
    targets: Tensor
    """[A] the answer tokens."""

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy per answer token of this batch."""
        return self.loss_sum / self.token_count


class Decoder(nn.Module, ABC):
    """A projector and a language model behind one face; subclasses say how the image reaches the language model.

    The language model's own generation defaults (sampling, penalties, lengths) are dropped but for its end tokens:
    what `generate` is told is all that counts.

    Args:
        language_model: any causal language model of transformers; it is frozen or not as `config.train` says.
        tokenizer: its tokenizer.
        config: prompt template, what is trained, and the default answer length.
        width: channels D of the vision tokens.
        identity: provenance; None: taken from `config`.

    Raises:
        ConfigError: the prompt template does not suit the tokenizer.
    """

    needs_start = False
    """Whether text must begin with a special token because no image stands before it."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: DecoderConfig,
        width: int,
        identity: DecoderIdentity | None = None,
    ) -> None:
        super().__init__()
        embeddings = language_model.get_input_embeddings()
        self.config = config
        self.width = width
        self.tokenizer = tokenizer
        self.layout = PromptLayout(tokenizer, config.prompt, start=self.needs_start)
        self.identity = identity or DecoderIdentity(config.name, config.kind, type(language_model).__name__)
        self.vocabulary: int = embeddings.weight.shape[0]  # type: ignore[index]
        self.pad = self._padding_id()
        self.projector = Projector(width, self.hidden(language_model))
        self.language_model = language_model
        self._first = first_position(language_model)
        self._selects = "logits_to_keep" in inspect.signature(language_model.forward).parameters
        self._set_generation_defaults()
        language_model.requires_grad_(False)
        adapters = add_lora(language_model, config.lora) if config.train == "lora" else []
        for parameter in [*self._trained(), *adapters]:
            parameter.requires_grad_(True)
        self.train(self.training)

    def encode(self, prompts: Sequence[str], targets: Sequence[str] | None = None) -> list[EncodedText]:
        """Tokenise prompts and answers; the result can be kept and given to `forward` and `generate` in their stead."""
        return self.layout.encode(prompts, targets)

    def forward(self, tokens: Tensor, prompts: Texts, targets: Sequence[str] | None = None) -> DecoderOutput:
        """Return the loss of the answers, and of nothing else.

        Args:
            tokens: vision tokens [B, N, D]; of several images per sample one after another, as many of each. Where a
                prompt marks their places by `<image>`, each mark has an equal share of them, in order.
            prompts: B strings, or B encoded texts that hold their targets.
            targets: B answers; None with encoded texts.

        Raises:
            ConfigError: tokens are not [B, N, D], or the sequence is longer than the language model allows.
            DataError: the lists are empty, do not fit the batch, or encoded texts have no targets.
        """
        texts = self._texts(tokens, prompts, targets)
        if not all(text.target for text in texts):
            raise DataError("a text has no target to learn; encode prompts and targets together")
        batch = self._assemble(tokens, texts, "right")
        logits = self._logits(tokens, batch).float()
        losses = functional.cross_entropy(logits, batch.answer, reduction="none")
        # A grid and a sum rather than index_add: the same on every run, on any device.
        grid = losses.new_zeros(len(texts), len(batch.columns)).index_put((batch.sample, batch.column), losses)
        per_sample = grid.sum(1)
        counts = torch.tensor([len(text.target) for text in texts], device=tokens.device)
        return DecoderOutput(per_sample.sum(), counts.sum(), per_sample, counts, logits, batch.answer)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        prompts: Texts,
        *,
        max_new_tokens: int | None = None,
        num_beams: int = 1,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | Draws | None = None,
        streamer: Any = None,
        **options: Any,
    ) -> list[str]:
        """Return one answer per image.

        Args:
            tokens: vision tokens [B, N, D], as in `forward`.
            prompts: B strings or encoded texts (their targets are ignored).
            max_new_tokens: None: the configuration's.
            num_beams: 1 is greedy search or plain sampling.
            do_sample: draw tokens; `temperature`, `top_p` and `top_k` (0: off) shape what is drawn from.
            seed: makes sampling repeatable, whatever other threads draw, and leaves the global generators alone; None
                draws from those.
            streamer: a transformers streamer, for one image without beams; see also `stream`.
            options: further options of transformers' `generate`, such as `no_repeat_ngram_size`. `stop_strings` end an
                answer, and the one that did so is still in it.

        Raises:
            ConfigError: there is no such option or value, options contradict each other or ask for more than a text
                for each image, or tokens are not [B, N, D].
            DataError: prompts are empty, no texts, or do not fit the batch, or tokens hold values that are not finite.
        """
        further = dict(options)
        if further:
            check_options(further, self.language_model, do_sample=do_sample)
            check_padding(further.get("pad_token_id"), self.tokenizer, self.layout.end)
        if further.get("stop_strings"):
            options["tokenizer"] = self.tokenizer
        new = self.config.max_new_tokens if max_new_tokens is None else max_new_tokens
        check_values(new, num_beams, temperature, top_p, top_k)
        texts = [replace(text, target=()) for text in self._texts(tokens, prompts, None)]
        check_finite(tokens)
        if not do_sample and (temperature, top_p, top_k) != (1.0, 1.0, 0):
            raise ConfigError("temperature, top_p and top_k shape sampling but do_sample is off; set do_sample=True")
        if streamer is not None and (len(texts) > 1 or num_beams > 1):
            raise ConfigError(f"streaming got {len(texts)} images and {num_beams} beams; stream one image, no beams")
        if do_sample:
            options |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        sampling: AbstractContextManager[object] = nullcontext()
        if do_sample and (draws := Draws.of(seed)) is not None:
            options, sampling = sampled_by(draws, options)
        options |= {"do_sample": do_sample, "num_beams": num_beams, "streamer": streamer}
        options["max_new_tokens"] = new
        batch = self._assemble(tokens, texts, "left", new=new)
        training = self.training
        self.eval()
        try:
            with sampling, refused_by_transformers(further):
                ids = self._generate(tokens, batch, options)
        finally:
            self.train(training)
        return [self.layout.decode(row) for row in ids.tolist()]

    def stream(self, tokens: Tensor, prompt: str, **options: Any) -> Iterator[str]:
        """Yield the answer to one prompt about one image, tokens [1, N, D], while it is being generated.

        The pieces joined are what `generate` with the same options returns; errors are raised here. Close the iterator
        (`close()`) where its reader is gone: generation then ends at its next token.
        """
        return stream(self.layout, lambda pieces: self.generate(tokens, [prompt], streamer=pieces, **options))

    def room(self, tokens: Tensor, prompts: Texts) -> int | None:
        """Return how many new tokens fit behind the longest of the prompts; None: the language model sets no limit.

        Raises:
            ConfigError: a prompt alone is too long.
        """
        used = self._assemble(tokens, self._texts(tokens, prompts, None), "left").ids.shape[1]
        return None if self._limit is None else self._limit - used

    @property
    def limit(self) -> int | None:
        """The longest sequence that the language model takes, if it has one; see `length`."""
        return self._limit

    def length(self, text: EncodedText, tokens: int) -> int:
        """Return how many positions a text and its images' `tokens` vision tokens take in the language model."""
        return self._positions(tokens) + sum(map(len, (text.before, *text.between, text.after, text.target)))

    def trainable_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return what is trained, in two groups: `projector` and `language_model`."""
        return {
            "projector": list(self.projector.parameters()),
            "language_model": [p for p in self.language_model.parameters() if p.requires_grad],
        }

    def learned(self) -> dict[str, nn.Parameter]:
        """Return what `config.train` says is trained, by name, whether or not it asks for gradients now."""
        trained = {id(p) for p in (*self._trained(), *adapter_parameters(self.language_model))}
        named = self.named_parameters()
        return {name: p for name, p in named if name.startswith("projector.") or id(p) in trained}

    def train(self, mode: bool = True) -> Self:
        """Switch training on or off; frozen parts of the language model stay in evaluation (no dropout)."""
        super().train(mode)
        self.language_model.eval()
        for module in self.language_model.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and all(p.requires_grad for p in parameters):
                module.train()
        for layer in adapted(self.language_model).values():  # dropout has no parameters to tell that it is trained
            layer.lora_dropout.train(mode)
        return self

    @staticmethod
    @abstractmethod
    def hidden(language_model: PreTrainedModel) -> int:
        """Return the width the projector ends in."""

    @abstractmethod
    def _logits(self, tokens: Tensor, batch: TextBatch) -> Tensor:
        """Return logits [A, V], of what predicts each answer token."""

    @abstractmethod
    def _generate(self, tokens: Tensor, batch: TextBatch, options: dict[str, Any]) -> Tensor:
        """Return the ids [B, T] of new tokens only."""

    @abstractmethod
    def _positions(self, tokens: int) -> int:
        """Return how many positions of the language model's sequence so many vision tokens take."""

    def _trained(self) -> list[nn.Parameter]:
        """Return the parameters of the language model that `config.train` names."""
        return list(self.language_model.parameters()) if self.config.train == "all" else []

    def _run(self, batch: TextBatch, **inputs: Any) -> Tensor:
        """Call the language model for logits [A, V], and for no others where it can leave them out.

        It computes them itself, so that soft-capping and scaling of logits are where they belong. `logits_to_keep`
        picks columns of the batch, of which a sample needs those of its own answer alone.
        """
        inputs |= {"attention_mask": batch.attention_mask, "use_cache": False, **self._places(batch)}
        if self._selects:
            inputs["logits_to_keep"] = batch.columns
        place = batch.column if self._selects else batch.columns[batch.column]
        width = len(batch.columns) if self._selects else batch.ids.shape[1]
        with only_rows(self.language_model, batch.sample, place, (len(batch.ids), width)) as picked:
            logits = self.language_model(**inputs).logits
        return logits[0] if picked else logits[batch.sample, place]

    def _places(self, batch: TextBatch) -> dict[str, Tensor]:
        return position_ids(batch.attention_mask, self._first)

    def _texts(self, tokens: Tensor, prompts: Texts, targets: Sequence[str] | None) -> list[EncodedText]:
        check_tokens(tokens, self.width)
        given = listed_texts(prompts, "prompts")
        targets = None if targets is None else listed_texts(targets, "targets")
        encoded = [p for p in given if isinstance(p, EncodedText)]
        strings = [p for p in given if not isinstance(p, EncodedText)]  # what is no text is told by `encode`
        if encoded and (strings or targets is not None):
            raise DataError("encoded texts came with strings; give either encoded texts alone or prompts and targets")
        texts = encoded or self.encode(strings, targets)
        if len(texts) != len(tokens):
            raise DataError(f"{len(texts)} prompts came with {len(tokens)} images; give one prompt per image")
        if uneven := [text.places for text in texts if tokens.shape[1] % text.places]:
            raise DataError(
                f"a prompt marks {uneven[0]} places for images, but {tokens.shape[1]} tokens cannot be shared among "
                "them evenly; mark each image's place once, or none"
            )
        return texts

    def _assemble(self, tokens: Tensor, texts: list[EncodedText], side: Any, new: int = 0) -> TextBatch:
        batch = assemble(texts, image=self._positions(tokens.shape[1]), pad=self.pad, side=side)
        length, limit = batch.ids.shape[1] + new, self._limit
        if limit is not None and length > limit:
            told, cure = (f", {new} of them new tokens,", ", or lower max_new_tokens") if new else ("", "")
            raise ConfigError(
                f"a sequence of {length} positions{told} exceeds the {limit} of {self.identity.architecture}; "
                f"use shorter text or fewer image tokens{cure}"
            )
        largest = int(batch.ids.max())
        if largest >= self.vocabulary:
            raise ConfigError(
                f"the tokenizer gave id {largest} but the language model knows {self.vocabulary}; "
                "use the tokenizer that belongs to it"
            )
        return batch.to(tokens.device)

    @property
    def _limit(self) -> int | None:
        """The longest sequence of the language model, if it has one."""
        limit = getattr(self.language_model.config, "max_position_embeddings", None)
        return None if limit is None else limit - self._first

    def _padding_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        # Masks hide padding, so any id with an embedding will do; embeddings are never resized for one.
        return pad if isinstance(pad, int) and pad < self.vocabulary else self.layout.end

    def _set_generation_defaults(self) -> None:
        known = self.language_model.generation_config
        ends = known.eos_token_id if known is not None else None
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self.language_model.generation_config = GenerationConfig(
            eos_token_id=sorted({self.layout.end, *ends}),
            pad_token_id=self.pad,
            bos_token_id=self.tokenizer.bos_token_id,
        )

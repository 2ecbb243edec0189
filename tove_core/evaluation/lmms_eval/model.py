"""The model class that lmms-eval drives: it unpacks lmms-eval's requests and leaves the rest to `answers`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from loguru import logger  # type: ignore[import-not-found]

from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.lmms_eval.answers import Answers, Asked
from tove_core.evaluation.lmms_eval.rounds import Talk, answer_rounds
from tove_core.evaluation.lmms_eval.scored import Scored
from tove_core.model import ToveModel

Best = Literal["lowest", "highest"]
"""Which number lmms-eval takes for the best choice of a `multiple_choice` task."""


class Tove(lmms):
    """A tove checkpoint for `python -m lmms_eval --model tove --model_args pretrained=RUN`.

    Args:
        pretrained: folder of a run or of a checkpoint, or a hub id.
        device: such as `cuda` or `cpu`; None: CUDA where there is one. With several processes each takes its own.
        batch_size: requests at a time.
        max_batch_size: unused; lmms-eval gives it to every model.
        best_choice: lmms-eval (looked at: 0.7.3) takes the lowest number for the best of a task's choices, because most
            of its models give losses. `lowest`: choices are scored by -log p; `highest`: by log p. Requests of type
            `loglikelihood` always get log p.

    Raises:
        ConfigError: an option is unknown or cannot be followed, or the model has no decoder.
        CheckpointError: the folder holds no checkpoint.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        best_choice: Best = "lowest",
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ConfigError(
                f"model_args has {', '.join(sorted(unknown))}, but tove takes pretrained, device, batch_size and "
                "best_choice; leave out the others"
            )
        if best_choice not in get_args(Best):
            raise ConfigError(f"best_choice is {best_choice!r}, but lowest or highest is wanted; see the documentation")
        self.best_choice = best_choice
        self.batch_size = _batch_size(batch_size)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.accelerator = Accelerator(cpu=device == "cpu")
        self._rank, self._world_size = _processes(self.accelerator)
        self.device = torch.device(device)
        if self._world_size > 1 and self.device.type == "cuda":
            self.device = self.accelerator.device
        self.model = self._load(pretrained)
        self.answers: Answers | None = Answers(
            self.model, self._report, batch_size=self.batch_size, quiet=self._rank != 0
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return what the model says to each request, in their order; see `Answers.generate`."""
        asked, options = [], []
        for request in requests:
            prompt, given, doc_to_visual, *place = self._arguments(request, 6)
            asked.append(Asked(prompt, self._images(doc_to_visual, place), tuple(place)))
            options.append(given)
        return self._answers().generate(asked, options)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Scored]:
        """Return for each request log p of its continuation, all tokens together, and whether greedy search writes it.

        A continuation that is given as text is one of a `multiple_choice` task's: see `best_choice`.
        """
        asked, texts, signs = [], [], []
        for request in requests:
            prompt, continuation, doc_to_visual, *place = self._arguments(request, 6)
            choice = isinstance(continuation, str)
            asked.append(Asked(prompt, self._images(doc_to_visual, place), tuple(place)))
            texts.append(continuation if choice else self._target(continuation, place))
            signs.append(-1 if choice and self.best_choice == "lowest" else 1)
        if -1 in signs:
            self._answers().tell(
                "choices are scored by -log p, because lmms-eval takes the lowest number for the best; "
                "model_args best_choice=highest gives log p"
            )
        found = self._answers().score(asked, texts)
        return [Scored(sign * one.log_probability, one.greedy) for sign, one in zip(signs, found, strict=True)]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Return each request's answers, round after round; see `answer_rounds`."""
        talks = []
        for request in requests:
            prompt, given, doc_to_visual, doc_to_text, *place = self._arguments(request, 7)
            go_on = partial(self._next_turn, doc_to_text, place)
            talks.append(Talk(prompt, self._images(doc_to_visual, place), tuple(place), given, go_on))
        return answer_rounds(self._answers(), talks)

    def clean(self) -> None:
        """Free the model, as lmms-eval asks before it judges answers."""
        self.answers = None
        super().clean()

    @property
    def apply_chat_template(self) -> Any:
        """Refuse `--apply_chat_template`: a checkpoint has its own template.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "prompts are put into the template saved with the checkpoint; leave out --apply_chat_template"
        )

    chat_template = apply_chat_template

    def _load(self, pretrained: str) -> ToveModel:
        # lmms-eval hides all of Python's warnings; what tove has to say goes where lmms-eval speaks.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model = ToveModel.from_pretrained(pretrained, device=self.device)
        for one in caught:
            self._report(str(one.message))
        if model.decoder is None:
            raise ConfigError(
                f"{pretrained} holds a model without a decoder, which cannot answer; give one with a decoder"
            )
        if not model.trained:
            self._report("this model was never trained: what it says has nothing to do with the image")
        return model

    def _answers(self) -> Answers:
        if self.answers is None:
            raise ConfigError("lmms-eval has already freed this model; make a new one")
        return self.answers

    def _report(self, sentence: str) -> None:
        if self._rank == 0:
            logger.warning(f"tove: {sentence}")

    def _arguments(self, request: Any, count: int) -> tuple[Any, ...]:
        if len(request.args) != count:
            raise DataError(
                f"a request of task {request.task_name} has {len(request.args)} arguments where {count} are wanted, as "
                "one without an image has (metric acc_mutual_info); choose another task or metric"
            )
        return request.args

    def _document(self, place: Sequence[Any]) -> Any:
        document, task, split = place
        return self.task_dict[task][split][document]

    def _images(self, doc_to_visual: Callable[[Any], Any], place: Sequence[Any]) -> Callable[[], Any]:
        return lambda: doc_to_visual(self._document(place))

    def _target(self, continuation: Callable[[Any], Any], place: Sequence[Any]) -> str:
        text = continuation(self._document(place))
        if not isinstance(text, str):
            raise DataError(
                f"the target of request {tuple(place)} is {text!r}, but a text is wanted; choose another task"
            )
        return text

    def _next_turn(
        self, doc_to_text: Callable[..., Any], place: Sequence[Any], said: list[str], number: int, notes: Any
    ):
        return doc_to_text(self._document(place), previous_output=said, round_idx=number, previous_round_info=notes)


def _processes(accelerator: Accelerator) -> tuple[int, int]:
    """Return this process's rank and their number: accelerate knows of none where lmms-eval started it without CUDA."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return accelerator.process_index, accelerator.num_processes


def _batch_size(given: int | str) -> int:
    try:
        size = int(given)
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(
            f"batch_size is {given!r}, but a number from 1 up is wanted; tove does not look for one itself"
        )
    return size

"""What can be known of a run's data before it begins: how many images there are, and how long its texts are."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from tove_core.config import DecoderConfig, RunConfig
from tove_core.data.readers import read, reader
from tove_core.data.sample import Sample, distinct_images
from tove_core.errors import ConfigError, ToveError
from tove_core.hub.reference import resolve_folder
from tove_core.language.batch import assemble
from tove_core.language.load import KINDS
from tove_core.language.prompt import PromptLayout
from tove_core.planning.decoder import PROMPT
from tove_core.planning.run_figures import DataSeen

BATCHES = 8
"""Batches of texts that are looked at."""


def look(config: RunConfig, decoder: DecoderConfig, images: int | None = None) -> DataSeen:
    """Return what is known of a run's data; they are read where they lie on this machine.

    Args:
        config: of the run.
        decoder: its language model, whose tokenizer says how long texts are where it lies in a folder.
        images: distinct images, where somebody knows; it comes before what is counted.

    Raises:
        ConfigError: `images` is below 1; or the data are not here, and there is no such reader or option.
    """
    if images is not None and images < 1:
        raise ConfigError(f"--images {images} was given; give the number of distinct images of the run's data")
    samples, why = _samples(config)
    counted = f"counted by reader {config.data.reader}" if not config.data.mixture else "counted by the readers"
    found = len(distinct_images(samples)[0]) if samples else None
    per_sample = max(len(sample.images) for sample in samples) if samples else _images(config)
    text, answer, texts = _lengths(config, decoder, samples)
    number, said = (images, "given with --images") if images is not None else (found, counted if samples else why)
    return DataSeen(number, said, per_sample, not samples, text, answer, texts)


def _samples(config: RunConfig) -> tuple[list[Sample], str]:
    """Return the training samples; none, and why, where they are not on this machine."""
    for source in config.data.mixture or (config.data,):
        if source.path is None:
            return (
                [],
                "the world is rendered, and its images are not counted"
                if source.reader == "world"
                else f"reader {source.reader} is told no data.path",
            )
        if not Path(source.path).exists():
            return [], f"{source.path} is not there"
    try:
        return read(config.data), ""
    except ToveError as error:
        return [], " ".join(str(error).split())


def _images(config: RunConfig) -> int:
    """Return the images of a sample as its format says, else one; a tiled one is itself and its tiles."""
    return max(
        (reader(source.reader).images_of(source) or 1) * (1 + (source.tiles or 0) ** 2)
        for source in config.data.mixture or (config.data,)
    )


def _lengths(config: RunConfig, decoder: DecoderConfig, samples: Sequence[Sample]) -> tuple[int, int, str]:
    """Return tokens of a batch's texts, as padded, how many a sample predicts, and where that is from."""
    folder = resolve_folder(decoder.name)
    assumed = PROMPT + decoder.max_new_tokens, decoder.max_new_tokens
    if not samples or folder is None:
        missing = "the data are" if not samples else "the tokenizer is"
        return *assumed, f"taken to be {PROMPT} and max_new_tokens, for {missing} not here"
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        layout = PromptLayout(tokenizer, decoder.prompt, start=KINDS[decoder.kind].needs_start)
        size = max(1, math.ceil(config.training.batch_size / config.training.accumulate))
        drawn = random.Random(0).choices(samples, k=size * BATCHES)
        prompts = [sample.prompt or decoder.caption_prompt for sample in drawn]
        encoded = layout.encode(prompts, [sample.targets[0] for sample in drawn])
    except (OSError, ValueError, ToveError) as error:
        return *assumed, f"taken to be {PROMPT} and max_new_tokens, for none could be encoded ({error})"
    batches = [assemble(encoded[i * size : (i + 1) * size], image=0, pad=0) for i in range(BATCHES)]
    text = math.ceil(sum(one.ids.shape[1] for one in batches) / BATCHES)
    answer = math.ceil(sum(len(one.answer) for one in batches) / (BATCHES * size))
    return text, answer, f"as padded in {BATCHES} batches of the data"

"""Trains the byte-level tokenizer that the world's CLIP and its language model share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tove_core.demo.captions import PROMPT, clip_captions, scene_captions
from tove_core.demo.splits import PRETRAIN

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
VOCABULARY = 640
"""Most entries the vocabulary may have; training stops earlier, when every word is one token."""

CONTEXT = 26
"""Tokens of CLIP's text tower; the longest caption has 24."""

_SCENES = 1000


def train(size: int = VOCABULARY) -> Tokenizer:
    """Return a byte-level BPE tokenizer in which every word of the world, with the space before it, is one token.

    Any other text is representable too: the 256 bytes are in the vocabulary. `EOS` has the highest id, as open_clip's
    text pooling wants, and `PAD` is 0.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens([EOS])
    return tokenizer


def texts() -> Iterator[str]:
    """Yield questions, answers and captions of the world in which all its words occur."""
    scenes = PRETRAIN.scenes(0, _SCENES)
    for questions in PRETRAIN.questions(scenes):
        yield from (f"{q.text} {q.answer}" for q in questions)
    for references in scene_captions(scenes):
        yield from references
    for captions in clip_captions(scenes, PRETRAIN.seed):
        yield from captions
    yield PROMPT


def for_language(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Return the tokenizer as a causal language model wants it: nothing is added to a text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def for_clip(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Return the tokenizer as CLIP's text tower wants it: `BOS` before and `EOS` after a text."""
    framed = Tokenizer.from_str(tokenizer.to_str())
    ids = [(token, framed.token_to_id(token)) for token in (BOS, EOS)]
    framed.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ids)
    wrapped = for_language(framed)
    wrapped.model_max_length = CONTEXT
    return wrapped


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write `tokenizer` to `folder` in the form that `AutoTokenizer.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))

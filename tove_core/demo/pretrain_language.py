"""Trains the world's base language model: it reads CLIP's tokens alone, and knows how questions are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tove_core.builder import assemble
from tove_core.config import ClipConfig, DecoderConfig, FusionConfig, ModelConfig, TrainingConfig
from tove_core.demo.reader import CAPTION_PROMPT, samples
from tove_core.demo.splits import PRETRAIN
from tove_core.hub.bars import without_bars
from tove_core.language.load import save_decoder
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.loop import fit

ROUNDS = 2
"""Warm restarts: each round goes through the whole schedule, from where the one before ended."""

STEPS = 1500
BATCH = 128
SCENES = 6000
RATE = 2e-3
PROJECTOR = "projector.safetensors"
PROMPT = "{image}{prompt}"

Report = Callable[[str], None]


def pretrain(folder: Path, steps: int = STEPS, report: Report = print, seed: int = 0) -> None:
    """Train the language model on the pretraining split with CLIP's tokens and write it to `folder`/lm, in float16.

    The projector is written too: a new one would have to be learned again before anything else.
    """
    blank = folder / "lm"
    architecture(folder / "tokenizer", blank)
    decoder = DecoderConfig(name=str(blank), train="all", prompt=PROMPT, caption_prompt=CAPTION_PROMPT)
    config = ModelConfig(
        clip=ClipConfig(name=f"local-dir:{folder / 'clip'}"), decoder=decoder, fusion=FusionConfig(kind="gate")
    )
    model = assemble(config, seed=seed)
    # All types of question: which of them CLIP's tokens cannot answer was only known once this had been trained.
    asked = samples(PRETRAIN, min(SCENES, PRETRAIN.size), questions=8, unasked=frozenset())
    examples = Examples.cached(model, asked, batch_size=256)
    report(f"language model: {len(examples)} samples")
    training = TrainingConfig(steps=steps, batch_size=BATCH, learning_rate=RATE, warmup=100)
    for turn in range(ROUNDS):
        fit(model, examples, training, seed=seed + turn, label=f"language model, round {turn + 1}")
        _to_half_and_back(model)
    write(model, folder)


def _to_half_and_back(model: ToveModel) -> None:
    """Round what was trained to float16, the precision it is shipped in, so that the next round starts from that."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.half())


def architecture(tokenizer: Path, folder: Path) -> None:
    """Write a small Llama with random weights and the world's tokenizer to `folder`."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            # At this width the usual 0.02 keeps the model at the answers' priors for a thousand steps.
            initializer_range=0.1,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    with without_bars():
        model.save_pretrained(folder)
        words.save_pretrained(folder)


def write(model: ToveModel, folder: Path) -> None:
    """Write the decoder's language model to `folder`/lm and its projector to `folder`, in float16."""
    decoder = model.decoder
    if decoder is None:
        raise ValueError("the model has no decoder to write")
    decoder.language_model.half()
    save_decoder(decoder, folder / "lm")
    state = {name: value.detach().half().contiguous() for name, value in decoder.projector.state_dict().items()}
    save_file(state, folder / PROJECTOR)

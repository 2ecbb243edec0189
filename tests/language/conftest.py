"""A tokenizer trained on the spot and tiny random language models of many families."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tove_core.config import DecoderConfig
from tove_core.language.base import Decoder
from tove_core.language.load import KINDS

WIDTH = 11
TEXTS = ["Describe the image.", "a red circle above a blue square", "how many circles are there? two or three"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
GROUPED = SMALL | {"num_key_value_heads": 1}
CONFIGS = {
    "llama": lambda **kw: transformers.LlamaConfig(**GROUPED, **kw),
    "gpt2": lambda **kw: transformers.GPT2Config(n_embd=24, n_layer=2, n_head=3, **kw),
    "qwen2": lambda **kw: transformers.Qwen2Config(**GROUPED, **kw),
    "gpt_neox": lambda **kw: transformers.GPTNeoXConfig(**SMALL, **kw),
    "gemma2": lambda **kw: transformers.Gemma2Config(
        **GROUPED, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=0.5, **kw
    ),
    "opt": lambda **kw: transformers.OPTConfig(
        hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=3, word_embed_proj_dim=24, **kw
    ),
    "bert": lambda **kw: transformers.BertConfig(**SMALL, is_decoder=True, **kw),
    # Its padding is a token of its own, behind which positions begin.
    "roberta": lambda **kw: transformers.RobertaConfig(**SMALL, is_decoder=True, **{**kw, "pad_token_id": 2}),
    "mamba": lambda **kw: transformers.MambaConfig(hidden_size=24, state_size=5, num_hidden_layers=2, **kw),
}


def tiny_tokenizer(chat: str | None = None, adds_start: bool = False) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if adds_start:
        from tokenizers.processors import TemplateProcessing

        bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[2:],
        chat_template=chat,
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(CHATML)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return tiny_tokenizer


@pytest.fixture
def model_of() -> Callable[..., PreTrainedModel]:
    return tiny_model


def tiny_model(family: str, tokenizer: PreTrainedTokenizerFast, **extra: object) -> PreTrainedModel:
    torch.manual_seed(3)
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = AutoModelForCausalLM.from_config(CONFIGS[family](**ids, **extra))
    with torch.no_grad():
        for parameter in model.parameters():
            # Tiny models at their usual initialisation hardly look at their input.
            parameter.add_((0.3 if family == "mamba" else 0.15) * torch.randn_like(parameter))
    return model


@pytest.fixture
def make(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Decoder]:
    def build(family: str = "llama", tok: PreTrainedTokenizerFast | None = None, **settings: object) -> Decoder:
        config = DecoderConfig(name="tiny", **{"max_new_tokens": 7, **settings})
        extra = {"add_cross_attention": True} if config.kind == "cross-attention" else {}
        model = tiny_model(family, tok or tokenizer, **extra)
        torch.manual_seed(4)
        return KINDS[config.kind](model, tok or tokenizer, config, WIDTH).eval()

    return build


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def prompts() -> list[str]:
    return ["how many?", "Describe the image.", "a blue circle or a red square above two circles?"]


@pytest.fixture
def targets() -> list[str]:
    return ["two or three red circles", "a square", ""]

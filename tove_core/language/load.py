"""Decoders from a hub id, a local folder or an installed package, and back to an ordinary Hugging Face folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from tove_core.config import DecoderConfig
from tove_core.environment import offline
from tove_core.errors import CheckpointError, WeightsError
from tove_core.folders import require_writable
from tove_core.hub.bars import without_bars
from tove_core.hub.digest import sha256
from tove_core.hub.isolation import building
from tove_core.language.base import Decoder, DecoderIdentity
from tove_core.language.cross_attention import CrossAttentionDecoder, cross_attention_parameters
from tove_core.language.lora import adapted, plain_state
from tove_core.language.prefix import PrefixDecoder
from tove_core.language.quantised import quantisation
from tove_core.language.randomness import seeded

KINDS: dict[str, type[Decoder]] = {"prefix": PrefixDecoder, "cross-attention": CrossAttentionDecoder}
"""The class behind each `DecoderConfig.kind`."""


def load_decoder(
    config: DecoderConfig,
    *,
    width: int,
    weights: Literal["pinned", "random"] = "pinned",
    seed: int = 0,
    device: torch.device | str | None = None,
    revision: str | None = None,
) -> Decoder:
    """Return the decoder a configuration names, in evaluation mode.

    Args:
        config: `name` is a hub id, a local folder, or `package:MODULE/FOLDER`.
        width: channels D of the vision tokens.
        weights: `pinned` loads safetensors, hub ids at their pinned revision; `random` needs only the configuration
            and the tokenizer, and draws the language model from `seed`.
        seed: of all parameters that are not loaded: the projector, and cross-attention layers the files do not hold.
        device: where it goes; None: the CPU.
        revision: commit, where the name is a hub id; None: the one that is pinned, else `main`.

    Raises:
        ConfigError: there is no such folder, or the model is not of the wanted kind.
        WeightsError: files are missing, not safetensors, do not fit, or cannot be reached.
    """
    source, revision = _source(config.name, revision)
    where: dict[str, Any] = {"revision": revision} if revision else {}
    where |= {"trust_remote_code": False, "local_files_only": offline() or revision is None}
    try:
        settings = AutoConfig.from_pretrained(source, **where)
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    except (OSError, ValueError) as error:
        raise unreachable(config.name, error, source, where) from error
    fresh = prepare(settings, config)
    with building(), seeded(seed), without_bars():
        if weights == "random":
            model = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, config.dtype))
        else:
            model = _pretrained(source, settings, config, fresh, where | quantisation(config, device))
        digest = None if weights == "random" else _digest(source)
        identity = DecoderIdentity(config.name, config.kind, type(model).__name__, revision, digest, weights)
        decoder = KINDS[config.kind](model, tokenizer, config, width, identity)
    return decoder.to(device or "cpu").eval()


def save_decoder(decoder: Decoder, folder: str | Path, *, merged: bool = False) -> None:
    """Write the language model and its tokenizer as an ordinary Hugging Face folder (safetensors).

    The projector is not in it: it belongs to the transfer that was trained, not to the language model.

    Args:
        decoder: what is written; adapters (`train: lora`) are never part of the folder by themselves.
        folder: where.
        merged: add what the adapters have learned to the weights, as deployment wants them; else the weights are
            those the adapters stand beside, as a checkpoint wants them.

    Raises:
        CheckpointError: the language model is held in few bits, which is not how it can be deployed, or the folder
            cannot be written.
    """
    if decoder.config.quantize is not None:
        raise CheckpointError(
            f"the language model is held in {decoder.config.quantize}, which cannot be written out in full; "
            "load it with decoder.quantize left out first"
        )
    require_writable(folder)  # transformers only logs that a file stands there
    model = decoder.language_model
    state = plain_state(model, merged=merged) if adapted(model) else None
    with without_bars():
        model.save_pretrained(folder, state_dict=state)
    decoder.tokenizer.save_pretrained(folder)


def _source(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return what transformers loads from, and the revision where that is a hub id."""
    if Path(name).is_dir():
        return name, None
    from tove_core.hub.reference import misspelt, resolve_folder

    folder = resolve_folder(name)
    if folder is not None:
        return str(folder), None
    from tove_core.hub.download import pinned_revision

    try:
        return name, revision or pinned_revision(name)
    except WeightsError as error:
        raise WeightsError(f"{error}{misspelt(name)}") from error


def _digest(source: str) -> str | None:
    """Return one hash for a local folder's weight files; a hub repository is identified by its revision instead."""
    files = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
    if not files:
        return None
    return sha256(files[0]) if len(files) == 1 else hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def prepare(settings: PretrainedConfig, config: DecoderConfig) -> frozenset[str]:
    """Make the architecture a decoder of the wanted kind; return names of parameters that files need not hold."""
    if hasattr(settings, "is_decoder"):
        # BERT and its kin read both ways unless told otherwise.
        settings.is_decoder = True  # type: ignore[attr-defined]
    if config.kind == "prefix":
        return frozenset()
    fresh = cross_attention_parameters(settings)
    settings.add_cross_attention = True  # type: ignore[attr-defined]
    return fresh


def _pretrained(
    source: str, settings: PretrainedConfig, config: DecoderConfig, fresh: frozenset[str], where: dict[str, Any]
) -> PreTrainedModel:
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise WeightsError(
            f"decoder {config.name!r} has no .safetensors file in its folder; save it again with "
            "save_pretrained, or choose a decoder that is published as safetensors"
        )
    try:
        # Annotated, because transformers does not declare that it returns a pair when asked for the report.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=settings,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            output_loading_info=True,
            **where,
        )
        model, report = loaded
    except (OSError, ValueError, RuntimeError) as error:
        raise unreachable(config.name, error, source, where) from error
    absent = sorted(set(report["missing_keys"]) - fresh)
    if absent:
        raise WeightsError(
            f"decoder {config.name!r} lacks {len(absent)} parameters of {type(model).__name__}, such as {absent[0]!r}; "
            "choose files of a causal language model"
        )
    return model


def _brings_code(source: str, where: Mapping[str, Any]) -> bool:
    """Tell whether a model cannot be built but by code of its own repository; only its `config.json` is read."""
    options = {key: value for key, value in where.items() if key in ("revision", "local_files_only")}
    try:
        settings, _ = PretrainedConfig.get_config_dict(source, **options)
    except (OSError, ValueError):
        return False
    return "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING


def unreachable(
    name: str, error: Exception, source: str | None = None, where: Mapping[str, Any] | None = None
) -> WeightsError:
    """Return the error to raise where transformers could not read a decoder.

    Args:
        name: as it was configured.
        error: what transformers said.
        source: what it was to be loaded from, and `where` the revision; None: not found.
    """
    if source is not None and _brings_code(source, where or {}):
        return WeightsError(
            f"decoder {name!r} is a model whose code lies beside its weights (auto_map in config.json), and tove runs "
            "no code from a model repository; choose a language model whose architecture is part of transformers"
        )
    reason = str(error).strip().split("\n")[0]
    return WeightsError(
        f"decoder {name!r} could not be loaded ({reason}); download it while online, give a local folder with "
        "config.json, tokenizer and safetensors as decoder.name, or set decoder to null"
    )

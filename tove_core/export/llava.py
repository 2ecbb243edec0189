"""Writes a model without experts as a whole LLaVA checkpoint, which needs no code of tove."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tove_core.config import Dtype
from tove_core.errors import ConfigError
from tove_core.export.compare import REPORT_FILE, versions
from tove_core.export.llava_model import llava_model
from tove_core.export.llava_processor import save_processor
from tove_core.export.llava_proof import prove
from tove_core.folders import new_folder
from tove_core.hub.bars import without_bars
from tove_core.language.base import Decoder
from tove_core.language.prefix import PrefixDecoder
from tove_core.model import ToveModel


@dataclass(frozen=True)
class LlavaReport:
    """What was written and how far it is from its source. Scales are the largest absolute values of the source's.

    Attributes:
        format: "llava".
        clip: name of the CLIP the tower came from.
        decoder: name of the language model.
        view: region of an image that is seen.
        dtype: precision of the weights.
        parameters: number of parameters written.
        feature_difference: largest absolute difference of projected image features, of the same rounded weights.
        feature_scale: of those features.
        logit_difference: the same for the logits of answers.
        logit_scale: of those logits.
        rounding_difference: of the logits of answers, the model computed with its weights before they were rounded.
        pixel_difference: of pixels, normalised, on a smooth image.
        libraries: versions of what wrote it.
    """

    format: str
    clip: str
    decoder: str
    view: str
    dtype: str
    parameters: int
    feature_difference: float
    feature_scale: float
    logit_difference: float
    logit_scale: float
    rounding_difference: float
    pixel_difference: float
    libraries: dict[str, str]

    def save(self, folder: Path) -> None:
        """Write the report into `folder`."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def write_llava(
    model: ToveModel, folder: str | Path, *, dtype: Dtype | None = None, overwrite: bool = False
) -> LlavaReport:
    """Write a model as a folder that `LlavaForConditionalGeneration` and `AutoProcessor` of transformers load.

    Before it is there it is loaded back and compared with the model: pixels, token ids, image features, logits. This
    takes about two copies of the model in float32 on the CPU. What adapters have learned is added to the weights.

    Args:
        model: without experts, such as `merge` returns, with a prefix decoder.
        folder: where it goes; complete or not there at all.
        dtype: precision of all weights; None: the language model's.
        overwrite: replace an existing folder.

    Raises:
        ConfigError: the model cannot be a LLaVA.
        CheckpointError: `folder` exists, or what was written does not compute the same; it is then not there.
    """
    require_plain(model)
    decoder = _prefix(model)
    if not model.trained:
        warnings.warn("this model was never trained: its LLaVA says nothing of any image", stacklevel=2)
    precision: torch.dtype = getattr(torch, dtype or decoder.config.dtype)
    with new_folder(folder, overwrite=overwrite) as inside:
        token = save_processor(model.tower, decoder, model.config.view, inside)
        written = llava_model(model.tower, decoder, token, precision)
        with without_bars():
            written.save_pretrained(inside)
        parameters = sum(p.numel() for p in written.parameters())
        del written
        proof = prove(model.tower, decoder, model.config.view, inside, precision)
        report = LlavaReport(
            format="llava",
            clip=model.tower.reference,
            decoder=decoder.identity.name,
            view=model.config.view,
            dtype=dtype or decoder.config.dtype,
            parameters=parameters,
            **asdict(proof),
            libraries=versions("tove-core", "torch", "transformers"),
        )
        report.save(inside)
    return report


def require_plain(model: ToveModel) -> None:
    """Refuse a model whose tokens are not its tower's own.

    Raises:
        ConfigError: it has experts, or a fusion that changes tokens without any.
    """
    if model.experts:
        many = f"{len(model.experts)} expert{'s' * (len(model.experts) > 1)}"
        raise ConfigError(
            f"the model has {many} ({', '.join(model.experts)}), which no other format can store; run 'tove merge' "
            "first, which moves what they know into the CLIP"
        )
    if model.fusion is not None:
        raise ConfigError(
            f"the fusion {model.config.fusion.kind!r} changes CLIP's tokens by layers of its own, which no other "
            "format can store; run 'tove merge' first, which moves what they do into the CLIP"
        )


def _prefix(model: ToveModel) -> Decoder:
    decoder = model.decoder
    if decoder is None:
        raise ConfigError("the model was built with decoder=None, and a LLaVA has a language model; export its CLIP")
    if not isinstance(decoder, PrefixDecoder):
        raise ConfigError(
            f"the decoder is of kind {decoder.config.kind!r}, but a LLaVA's image stands before the text; "
            "train with decoder.kind prefix"
        )
    if decoder.config.quantize is not None:
        raise ConfigError(
            f"the language model is held in {decoder.config.quantize}, which cannot be written out in full; "
            "load it with decoder.quantize left out first"
        )
    return decoder

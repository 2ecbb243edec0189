"""Towers of transformers: CLIP and SigLIP, whole or image tower only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipModel,
    SiglipVisionModel,
)

from tove_core.errors import ConfigError, WeightsError
from tove_core.hub.bars import without_bars
from tove_core.hub.isolation import drawn_from
from tove_core.tower.activation import activation_of
from tove_core.tower.base import ResizeMode, Tokens, Tower, image_input
from tove_core.tower.source import Files, sha256_of

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_PROCESSOR_FILE = "preprocessor_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers, as processors store them."""

_MODELS: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPModel,
    "siglip": SiglipModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}


class HfTower(Tower):
    """A transformers CLIP or SigLIP; `model` is the whole of it."""

    def __init__(self, reference: str, model: PreTrainedModel, files: Files, **face: Any) -> None:
        super().__init__(reference=reference, **face)
        self.model = model
        self.files = files

    @property
    def vision(self) -> nn.Module:
        """The image tower and, where there is one, its projection."""
        # The projection belongs to image embedding but lies beside the tower in the model.
        projection = getattr(self.model, "visual_projection", None)
        return _vision(self.model) if projection is None else nn.ModuleList([_vision(self.model), projection])

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer the text tower was trained with.

        Raises:
            ConfigError: it cannot be loaded.
        """
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self)
        return self._tokenizer

    def _features(self, pixels: Tensor) -> Tokens:
        inner: Any = _vision(self.model)
        hidden = inner.embeddings(pixels)
        has_class_token = hasattr(inner, "pre_layrnorm")
        if has_class_token:
            hidden = inner.pre_layrnorm(hidden)
        for layer in inner.encoder.layers[: self.block + 1]:
            hidden = layer(hidden, None)
        return _divided(hidden, has_class_token)

    def _embed(self, pixels: Tensor) -> Tensor:
        return self._seen(pixels)[0]

    def _features_and_embedding(self, pixels: Tensor) -> tuple[Tokens, Tensor]:
        embedding, out = self._seen(pixels, output_hidden_states=True)
        # The first of the hidden states is what enters the first block.
        hidden = out.hidden_states[self.block + 1]
        return _divided(hidden, hasattr(_vision(self.model), "pre_layrnorm")), embedding

    def _seen(self, pixels: Tensor, **options: bool) -> tuple[Tensor, Any]:
        """Return the image embedding [B, E] and all that transformers gives with it."""
        if self.embed_width is None:
            raise ConfigError(f"{self.reference!r} has no image projection; load a whole CLIP to embed images")
        model: Any = self.model
        if isinstance(model, (CLIPModel, SiglipModel)):
            out: Any = model.get_image_features(pixel_values=pixels, **options)  # type: ignore[arg-type]
            return out.pooler_output, out
        out = model(pixel_values=pixels, **options)
        return out.image_embeds if isinstance(model, CLIPVisionModelWithProjection) else out.pooler_output, out

    @property
    def text_width(self) -> int | None:
        """Width of the text side's projection; None for an image tower alone."""
        if isinstance(self.model, CLIPModel):
            return int(self.model.text_projection.out_features)
        return int(self.model.text_model.head.out_features) if isinstance(self.model, SiglipModel) else None

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return token ids, cut and padded to the text tower's length."""
        return self._tokenized(texts)["input_ids"].tolist()

    def _embed_text(self, texts: list[str]) -> Tensor:
        batch = self._tokenized(texts)
        mask = None if isinstance(self.model, SiglipModel) else batch["attention_mask"].to(self.device)
        model: Any = self.model
        return model.get_text_features(input_ids=batch["input_ids"].to(self.device), attention_mask=mask).pooler_output

    def _tokenized(self, texts: list[str]) -> Any:
        if not isinstance(self.model, (CLIPModel, SiglipModel)):
            raise ConfigError(f"{self.reference!r} has no text tower; load a whole CLIP to embed text")
        text: Any = self.model.config.text_config
        length = text.max_position_embeddings
        # Full length always: SigLIP was trained so, and what a text gives must not depend on its batch's longest.
        return self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")


def build_tower(
    reference: str,
    files: Files,
    *,
    layer: int,
    image_size: int | None,
    seed: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> HfTower:
    """Build, load and freeze a transformers tower; with a `seed` its weights are random.

    Raises:
        ConfigError: the model is not a CLIP or SigLIP, or its preprocessing is not known.
        WeightsError: the weights are missing, pickled, truncated or do not fit.
    """
    kind, config = _architecture(reference, files)
    if seed is None:
        model, paths = _load(kind, files, reference)
    else:
        paths = []
        with drawn_from(seed):
            model = kind(config)
    preprocess, resize_mode = _preprocessing(reference, files)
    inner: Any = _vision(model)
    trained, patch = int(inner.embeddings.image_size), int(inner.embeddings.patch_size)
    size = image_size or trained
    resized = size != trained
    face = image_input((size, size), (patch, patch), preprocess, wanted=resized, reference=reference)
    if resized:
        _resample_positions(inner, size)
    tower = HfTower(
        reference,
        model,
        files,
        input=face,
        resize_mode=resize_mode,
        width=inner.config.hidden_size,
        grid=(size // patch, size // patch),
        embed_width=_embed_width(model),
        layer=layer,
        blocks=len(inner.encoder.layers),
        activation=activation_of(block.mlp.activation_fn for block in inner.encoder.layers),
        weights_sha256=sha256_of(paths) if paths else None,
        revision=files.commit,
    )
    return tower.to(device=device, dtype=dtype).freeze()


def _architecture(reference: str, files: Files) -> tuple[type[PreTrainedModel], Any]:
    raw = files.json(CONFIG_FILE)
    kind = _MODELS.get(str(raw.get("model_type")))
    if kind is None:
        raise ConfigError(
            f"{reference!r} has model_type {raw.get('model_type')!r}; tove reads {', '.join(map(repr, _MODELS))}"
        )
    if kind is CLIPVisionModel and "CLIPVisionModelWithProjection" in (raw.get("architectures") or ()):
        kind = CLIPVisionModelWithProjection
    with files.staged([CONFIG_FILE]) as folder:
        return kind, AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _load(kind: type[PreTrainedModel], files: Files, reference: str) -> tuple[PreTrainedModel, list[Path]]:
    sharded = files.folder is not None and not files.has(WEIGHTS_FILE) and files.has(_INDEX_FILE)
    if sharded:
        names = sorted(set(files.json(_INDEX_FILE).get("weight_map", {}).values()))
    else:
        names = [WEIGHTS_FILE]
    paths = [files.weights(name) for name in names]
    try:
        with files.staged([CONFIG_FILE, *names]) as folder, without_bars():
            loaded: Any = kind.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
            model, report = loaded
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        first = " ".join(str(error).split())[:300]
        raise WeightsError(f"the weights of {reference!r} cannot be loaded ({first}); write them again") from error
    # transformers only warns about these and would go on with random numbers in their place.
    missing = sorted({*report["missing_keys"], *(str(k) for k in report["mismatched_keys"])})
    if missing:
        raise WeightsError(
            f"the weights of {reference!r} lack {len(missing)} of its parameters, first {missing[0]!r}; "
            "check that they belong to its config.json"
        )
    return model, paths


def _preprocessing(reference: str, files: Files) -> tuple[dict[str, Any], ResizeMode]:
    # transformers 5 may keep the image processor's settings inside the processor's.
    if files.folder is not None and not files.has(_PROCESSOR_FILE) and files.has("processor_config.json"):
        raw = files.json("processor_config.json").get("image_processor", {})
    else:
        raw = files.json(_PROCESSOR_FILE)
    if "image_mean" not in raw or "image_std" not in raw:
        raise ConfigError(
            f"the processor of {reference!r} names no image_mean and image_std; add them to {_PROCESSOR_FILE}"
        )
    squash = "height" in (raw.get("size") or {}) if isinstance(raw.get("size"), dict) else False
    preprocess = {
        "mean": raw["image_mean"],
        "std": raw["image_std"],
        # Both families' image processors resample bicubically unless told otherwise.
        "interpolation": _RESAMPLE.get(raw.get("resample", 3), raw.get("resample")),
    }
    return preprocess, "squash" if squash else "shortest"


def _resample_positions(inner: Any, side: int) -> None:
    """Give `inner` learned positions for `side` pixels, as transformers' `interpolate_pos_encoding` computes them."""
    embeddings = inner.embeddings
    grid = side // embeddings.patch_size
    prefix = embeddings.num_positions - embeddings.num_patches
    with torch.no_grad():
        shape_only = torch.empty(1, grid * grid + prefix, embeddings.embed_dim)
        table = embeddings.interpolate_pos_encoding(shape_only, side, side)[0].contiguous()
    embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
    embeddings.image_size, embeddings.num_patches, embeddings.num_positions = side, grid * grid, grid * grid + prefix
    embeddings.position_ids = torch.arange(grid * grid + prefix).expand((1, -1))
    inner.config.image_size = side


def _embed_width(model: PreTrainedModel) -> int | None:
    if isinstance(model, (CLIPModel, CLIPVisionModelWithProjection)):
        return int(model.visual_projection.out_features)
    inner: Any = _vision(model)
    if isinstance(model, CLIPVisionModel) or not inner.use_head:
        return None
    return int(inner.config.hidden_size)


def _divided(hidden: Tensor, has_class_token: bool) -> Tokens:
    return Tokens(hidden[:, 1:], hidden[:, 0]) if has_class_token else Tokens(hidden, None)


def _vision(model: nn.Module) -> nn.Module:
    return getattr(model, "vision_model", model)


def _tokenizer(tower: HfTower) -> Any:
    tower.files.require_tokenizer()
    try:
        with tower.files.staged([CONFIG_FILE, *_TOKENIZER_FILES]) as folder:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(
            f"the tokenizer of {tower.reference!r} cannot be loaded ({error}); put its files beside the weights"
        ) from error

"""Towers of open_clip: its own vision transformers and timm's plain ones inside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import torch
from open_clip.model import resize_pos_embed
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import VisionTransformer
from timm.models import Eva
from timm.models import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from tove_core import environment
from tove_core.errors import ConfigError, WeightsError
from tove_core.hub.isolation import drawn_from
from tove_core.hub.rasters import Colour
from tove_core.tower.activation import Activation, activation_of
from tove_core.tower.base import Tokens, Tower, image_input
from tove_core.tower.open_clip_source import Source, with_defaults
from tove_core.tower.source import Files, pinned_revision, sha256_of


class OpenClipTower(Tower):
    """An open_clip model; `model` is the whole of it and `model_cfg` what open_clip needs to build it again."""

    def __init__(self, model: nn.Module, source: Source, *, layer: int, resized: bool) -> None:
        visual: Any = model.visual
        native = isinstance(visual, VisionTransformer)
        trunk: Any = visual if native else visual.trunk
        blocks = list(trunk.transformer.resblocks if native else trunk.blocks)
        super().__init__(
            reference=source.reference,
            input=image_input(
                _pair(visual.image_size),
                _pair(trunk.patch_size if native else trunk.patch_embed.patch_size),
                source.preprocess_cfg,
                wanted=resized,
                reference=source.reference,
            ),
            resize_mode=source.preprocess_cfg["resize_mode"],
            fill=_colour(source.preprocess_cfg["fill_color"]),
            width=trunk.transformer.width if native else trunk.embed_dim,
            grid=_pair(trunk.grid_size if native else trunk.patch_embed.grid_size),
            embed_width=int(source.model_cfg["embed_dim"]),
            layer=layer,
            blocks=len(blocks),
            activation=block_activation(blocks),
            weights_sha256=None if source.weights is None else sha256_of([source.weights]),
            revision=source.revision,
        )
        self.model = model
        self.model_cfg = source.model_cfg
        self.files = source.files

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        model_cfg: dict[str, Any],
        *,
        preprocess_cfg: dict[str, Any] | None = None,
        tokenizer: Path | None = None,
        layer: int = -2,
        reference: str = "open_clip model",
    ) -> OpenClipTower:
        """Return a frozen tower around a model that is already built, such as one just trained with open_clip.

        Args:
            model: `open_clip.CLIP` or a relative of it; used as it is, not copied.
            model_cfg: what it was built from: embed_dim, vision_cfg, text_cfg and flags.
            preprocess_cfg: mean, std, interpolation, resize_mode, fill_color; open_clip's defaults where silent.
            tokenizer: folder of its tokenizer, where text_cfg names a transformers tokenizer.
            layer: block whose output gives the tokens.
            reference: name in messages and reports.

        Raises:
            ConfigError: the model has no blocks of patch tokens, or no such layer.
        """
        _require_plain(model, reference)
        files = None if tokenizer is None else Files(folder=tokenizer)
        cfg = copy.deepcopy(model_cfg)
        source = Source(reference, cfg, with_defaults(preprocess_cfg or {}), files, None)
        return cls(model, source, layer=layer, resized=False).freeze()

    @property
    def vision(self) -> nn.Module:
        """open_clip's `visual`."""
        return self.model.visual  # type: ignore[return-value]

    @property
    def tokenizer(self) -> HFTokenizer | SimpleTokenizer:
        """The tokenizer the text tower was trained with.

        Raises:
            ConfigError: it cannot be loaded.
        """
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self)
        return self._tokenizer

    def _features(self, pixels: Tensor) -> Tokens:
        return self._tokens_of(self._intermediates(pixels, embedding=False))

    def _intermediates(self, pixels: Tensor, *, embedding: bool) -> dict[str, Any]:
        return self.vision.forward_intermediates(  # type: ignore[operator]
            pixels,
            indices=[self.block],
            stop_early=not embedding,
            normalize_intermediates=False,
            intermediates_only=not embedding,
            output_fmt="NLC",
            output_extra_tokens=True,
        )

    def _tokens_of(self, out: dict[str, Any]) -> Tokens:
        prefix = out.get("image_intermediates_prefix")
        class_token = prefix[0][:, 0] if prefix and self._has_class_token else None
        return Tokens(out["image_intermediates"][0], class_token)

    @property
    def _has_class_token(self) -> bool:
        # timm towers may have registers as their only prefix tokens.
        visual: Any = self.vision
        return isinstance(visual, VisionTransformer) or visual.trunk.cls_token is not None

    def _embed(self, pixels: Tensor) -> Tensor:
        pooled = self.model.encode_image(pixels, normalize=False)  # type: ignore[operator]
        # Models configured with output_tokens answer (pooled, tokens).
        return pooled[0] if isinstance(pooled, tuple) else pooled

    def _features_and_embedding(self, pixels: Tensor) -> tuple[Tokens, Tensor]:
        out = self._intermediates(pixels, embedding=True)
        return self._tokens_of(out), out["image_features"]

    @property
    def text_width(self) -> int | None:
        """As wide as image embeddings: open_clip's models have both sides."""
        return self.embed_width

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return token ids, cut and padded to the context length."""
        return self.tokenizer(texts).tolist()

    def _embed_text(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts)
        vocabulary = int(self.model_cfg["text_cfg"].get("vocab_size", open_clip.CLIPTextCfg.vocab_size))
        if int(ids.max()) >= vocabulary:
            raise ConfigError(
                f"the tokenizer of {self.reference!r} gives ids up to {int(ids.max())} but its text tower knows "
                f"{vocabulary}; name the right tokenizer in text_cfg.hf_tokenizer_name"
            )
        embedded = self.model.encode_text(ids.to(self.device), normalize=False)  # type: ignore[operator]
        return embedded[0] if isinstance(embedded, tuple) else embedded


def build_tower(
    source: Source, *, layer: int, image_size: int | None, seed: int, dtype: torch.dtype, device: torch.device
) -> OpenClipTower:
    """Build, load and freeze an open_clip tower; `seed` decides its weights where the source has none.

    Raises:
        ConfigError: the architecture cannot be built, or is not one whose tokens lie on a grid.
        WeightsError: the weights do not fit or cannot be read.
    """
    cfg = source.model_cfg
    vision = cfg["vision_cfg"]
    trained = _pair(vision.get("image_size", open_clip.CLIPVisionCfg.image_size))
    size = trained if image_size is None else (image_size, image_size)
    resized = size != trained
    if resized and trained[0] != trained[1]:
        raise ConfigError(
            f"{source.reference!r} was trained at {trained[0]}x{trained[1]}; leave image_size empty for it"
        )
    # Dropping patches would break the grid, and base weights must never be downloaded on the side.
    vision["patch_dropout"] = 0.0
    inside_timm = "timm_model_name" in vision
    if resized and source.weights is None and not inside_timm:
        vision["image_size"] = image_size
    with drawn_from(seed):
        model = _build(cfg, source.reference)
    if source.weights is not None:
        _load(model, source)
    if resized and vision.get("image_size") != image_size:
        if inside_timm:
            model.visual.set_input_size(image_size)  # type: ignore[operator, union-attr]
        else:
            _resize(model, size)
        vision["image_size"] = image_size
    tower = OpenClipTower(model, source, layer=layer, resized=resized)
    return tower.to(device=device, dtype=dtype).freeze()


def block_activation(blocks: list[nn.Module]) -> Activation:
    """Return what the MLPs of open_clip or timm blocks compute."""
    found: list[nn.Module] = []
    for block in blocks:
        mlp: Any = block.mlp
        act = mlp.gelu if hasattr(mlp, "gelu") else getattr(mlp, "act", None)
        if act is None:
            return "other"
        found.append(act)
    return activation_of(found)


def _build(cfg: dict[str, Any], reference: str) -> nn.Module:
    cfg = {**cfg, "vision_cfg": dict(cfg["vision_cfg"]), "text_cfg": dict(cfg["text_cfg"])}
    text = cfg["text_cfg"]
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
        if environment.offline() and not huggingface_hub.constants.HF_HUB_OFFLINE:
            raise ConfigError(
                f"the text tower of {reference!r} asks the hub for {text['hf_model_name']!r} but tove is offline; "
                "set HF_HUB_OFFLINE=1 to take it from the local cache"
            )
    custom = cfg.pop("custom_text", False) or "hf_model_name" in text
    kind: Any = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    if custom and "multimodal_cfg" in cfg:
        kind = open_clip.CoCa
    try:
        model = kind(**cfg)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"open_clip cannot build {reference!r}: {str(error) or type(error).__name__}; check its model_cfg"
        ) from error
    _require_plain(model, reference)
    return model


def _require_plain(model: nn.Module, reference: str) -> None:
    visual = model.visual
    plain = isinstance(visual, VisionTransformer) or (
        isinstance(visual, TimmModel) and isinstance(visual.trunk, (TimmVisionTransformer, Eva))
    )
    if not plain:
        seen = type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__
        raise ConfigError(
            f"the image tower of {reference!r} is a {seen}, which has no blocks of patch tokens; choose a ViT"
        )


def _load(model: Any, source: Source) -> None:
    from safetensors import SafetensorError

    try:
        open_clip.load_checkpoint(model, str(source.weights), strict=True)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{source.weights} cannot be read ({error}); download or write it again") from error
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"the weights of {source.reference!r} do not fit its configuration ({first}); check model_cfg"
        ) from error


def _resize(model: Any, size: tuple[int, int]) -> None:
    """Let an open_clip tower see images of another size: its positions are resampled as open_clip does.

    It would do so while it loads, in the precision of the file, and a CPU resamples no float16. The parameters that
    the file was loaded into are float32.
    """
    visual = model.visual
    # A size that is not whole patches is refused where the tower's input is made.
    visual.image_size = size
    visual.grid_size = tuple(max(1, side // patch) for side, patch in zip(size, visual.patch_size, strict=True))
    old = visual.positional_embedding
    state = {"visual.positional_embedding": old.detach().float()}
    resize_pos_embed(state, model)
    visual.positional_embedding = nn.Parameter(state["visual.positional_embedding"], requires_grad=old.requires_grad)


def _tokenizer(tower: OpenClipTower) -> HFTokenizer | SimpleTokenizer:
    text = tower.model_cfg["text_cfg"]
    length = text.get("context_length", open_clip.CLIPTextCfg.context_length)
    kwargs = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(context_length=length, **kwargs)
    # As open_clip: a local folder brings its own tokenizer. A configuration file may not switch on remote code.
    local = tower.files.folder if tower.files is not None else None
    kwargs |= {"trust_remote_code": False, "local_files_only": local is not None or environment.offline()}
    if tower.files is not None and local is not None:
        tower.files.require_tokenizer()
    else:
        kwargs["revision"] = pinned_revision(name)
    mode = text.get("tokenizer_mode")
    try:
        return HFTokenizer(str(local or name), context_length=length, tokenizer_mode=mode, **kwargs)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(
            f"the tokenizer of {tower.reference!r} cannot be loaded from {str(local or name)!r} ({error}); "
            "put its files there"
        ) from error


def _colour(fill: float | Sequence[float]) -> Colour:
    """Return open_clip's colour of padding, one number in 0..255 or three, as red, green and blue in 0..1."""
    red, green, blue = (fill,) * 3 if isinstance(fill, (int, float)) else fill
    return red / 255, green / 255, blue / 255


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, (tuple, list)) else (value, value)
    return int(height), int(width)

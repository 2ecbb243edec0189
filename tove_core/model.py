"""The model: images to enhanced tokens, captions and answers, with experts that can be switched off.

B images, N tokens of CLIP's grid, D CLIP's width, K experts, C_k an expert's aligned channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_core.checks import names_given
from tove_core.config import ExpertConfig, ModelConfig, Rule
from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.fusion import Align, Fused, Transfer
from tove_core.fusion.checks import clip_tokens
from tove_core.fusion.selector import Selector
from tove_core.fusion.transfer import without_experts
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.images import ImageSource
from tove_core.hub.view import Preprocessor, Seen
from tove_core.language.base import Decoder, Texts
from tove_core.language.draws import Draws
from tove_core.language.given import questions_about
from tove_core.listed import in_batches, listed
from tove_core.marks import Mark
from tove_core.naming import CLIP
from tove_core.parameters import ParametersReport, count_parameters
from tove_core.provenance import Origin, Provenance
from tove_core.seeing import as_now, see
from tove_core.selecting import encode_as_deployed, enhanced, selected
from tove_core.tower.base import Tower
from tove_core.tower.text import TextVectors

BATCH = 32
"""Images that are seen and asked about at a time, unless told otherwise."""


class ToveModel(nn.Module):
    """A frozen CLIP, frozen experts, a fusion and a decoder. Build it with `tove_core.build`.

    Attributes:
        config: resolved configuration.
        provenance: where every frozen part came from.
        calibrated: whether channel statistics and the residual's size have been set from images.
        trained: whether the fusion or the decoder has seen a training step.
        selector: what chooses experts for each image (`tove_core.selection.select`); None: every expert runs.
        selecting: whether it is asked; False: every expert runs all the same.
    """

    progress: Tensor
    """[2], whether it is calibrated and trained."""

    calibrated = Mark(0, "Whether channel statistics and the residual's size have been set from images.")
    trained = Mark(1, "Whether the fusion or the decoder has seen a training step.")

    def __init__(
        self,
        tower: Tower,
        experts: Mapping[str, FrozenExpert],
        fusion: Transfer | None,
        decoder: Decoder | None,
        config: ModelConfig,
        provenance: Provenance,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.experts = nn.ModuleDict(experts)
        # Shared by all experts that give labels or words; no module, so that the tower stays where it is in the state.
        self.texts = TextVectors(tower)
        aligned = {key: Align(expert.spec, tower.grid, self.texts) for key, expert in experts.items()}
        self.align = nn.ModuleDict(aligned).to(self.device)  # what experts give is aligned where CLIP is
        self.fusion = fusion
        self.decoder = decoder
        self.selector: Selector | None = None
        self.selecting = True
        self.config = config
        self.provenance = provenance
        self.origin = origin or Origin()
        # A buffer, so that a state_dict knows it too: calibrating a trained model again would scale what it learnt.
        self.register_buffer("progress", torch.zeros(2, dtype=torch.bool))
        self._warned = False

    @property
    def device(self) -> torch.device:
        """Where CLIP runs and tokens are given."""
        return next(self.tower.parameters()).device

    @property
    def active_experts(self) -> list[str]:
        """Experts that are on and therefore run."""
        return [] if self.fusion is None else self.fusion.active

    @property
    def selects(self) -> bool:
        """Whether experts are chosen image by image."""
        return self.selecting and self.selector is not None and bool(self.active_experts)

    @torch.inference_mode(False)  # what it gives may be kept, and trained on later
    @torch.no_grad()
    def encode(
        self, images: ImageSource | Sequence[ImageSource | Seen], only: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Run the frozen parts: `clip` v [B, N, D] and, by name, every active expert's u_k [B, N, C_k], float32.

        Args:
            images: B of them, also as `preprocessor().see` gives them.
            only: run these of them alone; None: all.

        Raises:
            UnknownExpertError: `only` names what is not active.
            ConfigError: `only` is no list of names.
        """
        features = [CLIP, *self.active_experts]
        asked = features if only is None else names_given(only, "only")
        if unknown := sorted(set(asked) - set(features)):
            raise UnknownExpertError(f"{unknown} cannot be run; this model has {', '.join(features)} on")
        wanted = [key for key in features if key in asked]
        experts = {key: (self._expert(key), self._align(key)) for key in wanted if key != CLIP}
        return see(self.preprocessor(wanted)(listed(images)), self.tower, experts)

    def preprocessor(self, only: Sequence[str] | None = None) -> Preprocessor:
        """Return what prepares images for CLIP and the active experts, or for `only` some that the model holds.

        Raises:
            UnknownExpertError: `only` names what it does not hold.
            ConfigError: `only` is no list of names.
        """
        wanted = [CLIP, *self.active_experts] if only is None else names_given(only, "only")
        held = [CLIP, *self.experts]
        if unknown := sorted(set(wanted) - set(held)):
            raise UnknownExpertError(f"images cannot be prepared for {unknown}; this model holds {', '.join(held)}")
        inputs = {key: self.tower.input if key == CLIP else self._expert(key).spec.input for key in wanted}
        return Preprocessor(inputs, self.config.view)

    def fuse(self, features: Mapping[str, Tensor], **options: Any) -> Fused:
        """Enhance CLIP's tokens by all experts' features; options as for `Transfer.forward`. Gradients flow."""
        tokens = clip_tokens(features)
        return without_experts(tokens, **options) if self.fusion is None else self.fusion(tokens, features, **options)

    @torch.no_grad()
    def select(self, images: ImageSource | Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return for each expert that is on which images it runs on, bool [B]; CLIP alone runs for that.

        Raises:
            ConfigError: the model has no selector.
            ImageError: there is no image, or one cannot be read.
        """
        return selected(self, images)

    def forward(self, images: ImageSource | Sequence[ImageSource | Seen], **options: Any) -> Tensor:
        """Return enhanced tokens v' [B, N, D], float32, as `tokens` does; gradients flow to the fusion in grad mode.

        The decoder is not run. The frozen parts give no gradient, nor do the images. For `DistributedDataParallel` and
        trainers that call a model; a loop of one's own saves work by `encode` once and `fuse` in each step. A decoder,
        and experts that are off, get no gradient here, of which `DistributedDataParallel` must be told by
        `find_unused_parameters=True`; with `decoder=None` and every expert on it need not be.

        Args:
            images: B of them: a list, an array [B, H, W, 3], a tensor [B, 3, H, W], or what `preprocessor().see` gave.
            options: `mask`, `keys` and `noise` as for `Transfer.forward`; a mask stands in for the model's own choice.

        Raises:
            ImageError: there is no image, or one cannot be read.
            ConfigError: an option has another shape, or noise comes without keys.
        """
        now = as_now(self)
        if options.get("mask") is not None:
            return now.fuse(now.encode(images), **options).tokens
        features, mask = encode_as_deployed(now, listed(images))
        return now.fuse(features, **{**options, "mask": mask}).tokens

    @torch.no_grad()
    def tokens(self, images: ImageSource | Sequence[ImageSource]) -> Tensor:
        """Return enhanced tokens v' [B, N, D]; CLIP's own, bit for bit, when every expert is off.

        Raises:
            DataError: an expert gives values for an image that are not finite.
        """
        return enhanced(self, images).tokens

    @torch.no_grad()
    def gates(self, images: ImageSource | Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return each expert's gate map [B, rows, columns] on CLIP's grid; 1 is the weight of equal gates.

        Of an expert that was not chosen for an image it is 0.

        Raises:
            ConfigError: the fusion has no gate.
            DataError: as for `tokens`.
        """
        fused = enhanced(self, images)
        if fused.gates is None or self.fusion is None:
            on = len(self.active_experts)
            raise ConfigError(
                f"a fusion of kind {self.config.fusion.kind!r} with {on} experts on has no gates to show; "
                "use kind 'gate' with at least one expert on"
            )
        maps = fused.gates.unflatten(1, self.tower.grid)
        return {key: maps[..., k] for k, key in enumerate(self.fusion.experts)}

    # Speaking

    def caption(
        self, images: ImageSource | Sequence[ImageSource], *, batch_size: int = BATCH, **generation: Any
    ) -> list[str]:
        """Describe each image; options as for `Decoder.generate`, `batch_size` as for `answer`."""
        return self.answer(images, self._decoder().config.caption_prompt, batch_size=batch_size, **generation)

    def answer(
        self,
        images: ImageSource | Sequence[ImageSource | Sequence[ImageSource]],
        questions: str | Sequence[str],
        *,
        batch_size: int = BATCH,
        **generation: Any,
    ) -> list[str]:
        """Answer one question per image, or per list of images; a single question is asked of every one.

        The tokens of a list's images follow each other where one image's would stand, or stand where `<image>` marks
        their places in the question.

        Args:
            images: B of them, or B lists.
            questions: B, or one.
            batch_size: how many images are seen and asked about at a time, which bounds the memory; a list of more is
                taken whole. What is said does not depend on it, unless it is drawn (`do_sample`).
            generation: options as for `Decoder.generate`.

        Raises:
            ConfigError: there are not as many questions as images, a list is empty, or the batch size is below 1.
            ImageError: there is no image, or one cannot be read.
            DataError: a question marks more or fewer images than it is asked about; or as for `tokens`.
        """
        shown = [list(one) if isinstance(one, (list, tuple)) else [one] for one in listed(images)]
        counts = [len(one) for one in shown]
        self._decoder()  # or there is none, which is said before images are seen
        asked = questions_about(counts, questions)
        said = [""] * len(shown)
        # Draws go on from batch to batch: seeded anew in each, every batch would draw the same.
        generation["seed"] = Draws.of(generation.get("seed"))
        for own in in_batches(counts, batch_size):
            tokens = self.tokens([image for i in own for image in shown[i]])
            together = tokens.unflatten(0, (len(own), -1)).flatten(1, 2)
            for i, text in zip(own, self.generate(together, [asked[i] for i in own], **generation), strict=True):
                said[i] = text
        return said

    def generate(self, tokens: Tensor, prompts: Texts, **generation: Any) -> list[str]:
        """Let the decoder write from enhanced tokens [B, N, D]."""
        decoder = self._decoder()
        if not (self.trained or self._warned):
            self._warned = True
            warnings.warn(
                "this model was never trained: what it says has nothing to do with the image; run 'tove train' first",
                stacklevel=3,
            )
        return decoder.generate(tokens, prompts, **generation)

    # Switching experts

    def detach(self, name: str, rule: Rule | None = None) -> None:
        """Switch an expert off; it no longer runs. `rule`: see `tove_core.config.Rule`; None: as configured.

        Raises:
            UnknownExpertError: the model holds no such expert.
            ConfigError: there is no such rule, or the fusion has no softmax to renormalise.
        """
        self._fusion().switch_off(name, rule or self.config.fusion.rule)

    def attach(self, name: str) -> None:
        """Switch a detached expert on again.

        Raises:
            UnknownExpertError: the model does not hold it, or not any more.
        """
        self._fusion().switch_on(name)

    def prune(self) -> list[str]:
        """Unload detached experts with everything that belongs to them; return their names."""
        gone = self._fusion().prune()
        for name in gone:
            del self.experts[name], self.align[name]
        self.selector = self.selector and self.selector.without(gone)
        if gone and not self.experts:
            self.fusion = None  # nothing is left to fuse: tokens are CLIP's own
        kept = tuple(expert for expert in self.config.experts if expert.key in self.experts)
        self.config = self.config.model_copy(update={"experts": kept})
        origins = {key: part for key, part in self.provenance.experts.items() if key in self.experts}
        self.provenance = self.provenance.model_copy(update={"experts": origins})
        return gone

    def add_expert(
        self, expert: str | ExpertConfig | Mapping[str, Any], *, images: ImageSource | Sequence[ImageSource] = ()
    ) -> None:
        """Let an expert join a trained model without changing what it says; see `tove_core.growth.add_expert`."""
        from tove_core.growth import add_expert

        add_expert(self, expert, images=images)

    # Before training

    def calibrate(self, images: ImageSource | Sequence[ImageSource], batch_size: int = 64) -> None:
        """Measure what is fixed before training, on a sample of images: channel statistics, then the residual's size.

        Does nothing to a model that is calibrated already.

        Args:
            images: a few hundred of the kind the model is for (`tove train` draws 256). Experts that are off are
                measured too.
            batch_size: images that are seen at a time; the residual's size is measured on as many, drawn from all.

        Raises:
            ConfigError: every expert is off, the model was trained without being calibrated, or the batch size is
                below 1.
            DataError: an expert gives values for them that are not finite; nothing is changed.
            ImageError: there is no image, or one cannot be read.
        """
        from tove_core.calibration import calibrate

        calibrate(self, images, batch_size)

    # Reporting, saving

    def parameters_report(self) -> ParametersReport:
        """Count parameters part by part, trained and frozen; `print` it."""
        return count_parameters(self)

    def save_pretrained(self, folder: str | Path, *, full: bool = False) -> Path:
        """Write a checkpoint folder: what was trained, and the rest by reference or, with `full`, inside.

        What is trained follows from the configuration, whatever asks for gradients now.

        Raises:
            CheckpointError: the folder cannot be written, or the model could not be loaded again as it is: its fusion
                or decoder is not what the configuration builds, or a frozen part is being trained and `full` is off.
        """
        from tove_core.checkpoint import save

        return save(self, folder, full=full)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, revision: str | None = None, device: str | torch.device | None = None
    ) -> ToveModel:
        """Read the folder of a checkpoint, a run or a merged model, or a hub id; see `tove_core.checkpoint.load`."""
        from tove_core.checkpoint import load

        return load(folder, revision=revision, device=device)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        full: bool = False,
        allow: Sequence[str] = (),
    ) -> str:
        """Save the model as a checkpoint in a repository of the hub, and return the address of its page.

        Args:
            repo: hub id, `owner/name`; made if it is not there.
            private: whether a repository that is made is private; None: as the account's default is.
            revision: branch, made if it is not there; None: `main`.
            commit_message: None: a plain one.
            full: with the frozen parts inside, whose weights are then passed on.
            allow: names of parts, and licences, whose weights may be passed on although tove does not know it.

        Raises:
            LicenseError: weights would be passed on whose licence is not known to let them be.
            UploadError: nobody is logged in or has the rights, or the hub cannot be reached.
        """
        from tove_core.publishing.push import push_model

        return push_model(
            self, repo, private=private, revision=revision, message=commit_message, full=full, allow=allow
        )

    def _expert(self, key: str) -> FrozenExpert:
        return self.experts[key]  # type: ignore[return-value]  # built from FrozenExperts

    def _align(self, key: str) -> Align:
        return self.align[key]  # type: ignore[return-value]  # built as Aligns

    def _decoder(self) -> Decoder:
        if self.decoder is None:
            raise ConfigError("the model was built with decoder=None and cannot write text; build it with a decoder")
        return self.decoder

    def _fusion(self) -> Transfer:
        if self.fusion is None:
            raise ConfigError("the model has no experts to switch; build it with experts=[...]")
        return self.fusion

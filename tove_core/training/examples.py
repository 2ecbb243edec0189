"""Samples as training sees them: features of their images, a prompt, and one of the right texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from tove_core.data.features import Features, FeatureTable
from tove_core.data.sample import Sample, distinct_images, load_image
from tove_core.errors import DataError
from tove_core.fusion.align import gives_text
from tove_core.model import ToveModel
from tove_core.tower.text import text_fingerprint

Progress = Callable[[int, int], None]


class Examples:
    """A data set bound to a model's features: from a table computed once per image, or computed when asked for.

    Args:
        model: whose `encode` gives features.
        samples: what is trained or scored on.
        table: features of the distinct images, in the order of `distinct_images`; None: compute when asked.
    """

    def __init__(self, model: ToveModel, samples: Sequence[Sample], table: Features | None = None) -> None:
        self.model, self.samples, self.table = model, samples, table
        self.images, self.rows = distinct_images(samples)
        if table is not None and len(table) != len(self.images):
            raise DataError(f"the feature table holds {len(table)} images, the samples have {len(self.images)}")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @classmethod
    def cached(
        cls, model: ToveModel, samples: Sequence[Sample], *, batch_size: int = 64, progress: Progress | None = None
    ) -> Examples:
        """Run the frozen parts once per distinct image and keep what they give in float16."""
        table = build_table(model, samples, batch_size=batch_size, progress=progress)
        return cls(model, samples, table)

    def features(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return `clip` v [B, N, D] and u_k [B, N, C_k] of the samples, on the model's device."""
        rows = [self.rows[i] for i in indices]
        if self.table is not None:
            return self.table.gather(rows, self.model.device)
        return self.model.encode([load_image(self.images[row]) for row in rows])

    def prompts(self, indices: Sequence[int]) -> list[str]:
        """Return the questions; the configured caption prompt where a sample asks none."""
        default = self.model.config.decoder.caption_prompt if self.model.config.decoder else ""
        return [self.samples[i].prompt or default for i in indices]

    def targets(self, indices: Sequence[int], keys: Tensor) -> list[str]:
        """Return one right text per sample, picked by the sample's key where there are several."""
        texts = []
        for index, key in zip(indices, keys.tolist(), strict=True):
            options = self.samples[index].targets
            texts.append(options[(key >> 8) % len(options)])
        return texts


def build_table(
    model: ToveModel, samples: Sequence[Sample], *, batch_size: int = 64, progress: Progress | None = None
) -> FeatureTable:
    """Return the features of the samples' distinct images, float16, in main memory."""
    images, _ = distinct_images(samples)
    return FeatureTable.build(
        lambda chunk: model.encode([load_image(image) for image in chunk]),
        images,
        fingerprint=fingerprint(model),
        batch_size=batch_size,
        progress=progress,
    )


def fingerprint(model: ToveModel) -> dict[str, object]:
    """Return what a model's features depend on."""
    seen = {
        "view": model.config.view,
        "clip": model.config.clip.model_dump(mode="json"),
        "provenance": model.provenance.model_dump(mode="json", exclude={"decoder", "tove"}),
        "experts": model.active_experts,
    }
    if any(gives_text(model.experts[key].spec) for key in model.active_experts):  # type: ignore[arg-type]
        seen["text"] = text_fingerprint(model.tower)
    return seen

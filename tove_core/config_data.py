"""The part of the configuration tree that says which samples are read; `tove_core.config` offers it. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from tove_core.spec import Fraction, Frozen, Positive


class SourceConfig(Frozen):
    """One data set."""

    reader: str = Field(
        default="jsonl",
        description="name of a reader: jsonl, csv, coco-captions, vqav2, ...; docs/reference/data.md lists all",
    )
    path: Path | None = Field(default=None, description="file or folder of the data set; of shards also a URL")
    images: Path | None = Field(
        default=None, description="folder or tar archive of the images, where they are not beside the file"
    )
    split: str = Field(default="train", description="which part, for readers of data sets that name their parts")
    limit: Positive | None = Field(default=None, description="read only so many samples; in a mixture, of each part")
    options: dict[str, Any] = Field(default={}, description="what this reader can be told beside that")
    tiles: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="give each image as itself followed by its k x k tiles, row by row"
    )


class PartConfig(SourceConfig):
    """One data set of a mixture."""

    name: str | None = Field(default=None, description="stands before the ids of its samples; None: the reader's")
    weight: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="how often a sample comes per epoch: 2: twice, 0.5: in every other epoch"
    )


class DataConfig(SourceConfig):
    """Which samples a run reads: one data set, or a mixture of several."""

    mixture: tuple[PartConfig, ...] = Field(default=(), description="several data sets in place of one")
    max_broken: Fraction = Field(
        default=0.001,
        description="share of the images that may be missing or unreadable, and in training of the samples that may be "
        "too long for the language model: they are left out and named; beyond it the run stops",
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        given = sorted(self.model_fields_set & {"reader", "path", "images", "split", "options", "tiles"})
        defaults = DataConfig.model_fields
        told = [key for key in given if getattr(self, key) != defaults[key].default]
        if self.mixture and told:
            raise ValueError(f"{', '.join(told)} beside mixture would do nothing; give it to the parts of the mixture")
        names = [part.name or part.reader for part in self.mixture]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"parts of the mixture are both called {twice[0]!r}; give one of them a name")
        return self

"""What a data set format offers: its reader, the options it takes, and whether its data sets come in splits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tove_core.config import SourceConfig
from tove_core.data.files import refuse_split
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError
from tove_core.settings import describe

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Format:
    """A reader with what `read` has to know of it.

    Attributes:
        place: `module:function`, imported when first used. It is called with the configuration, and with the checked
            options where there are any.
        options: name of the module's class of options; None: there are none.
        splits: whether `data.split` names a part; the others read one file per split.
        test: whether there is a split called "test" with answers, which a run is scored on when nothing else is said.
        images: name of the module's function that says how many images a sample has, where the format alone decides
            it; it is called with the checked options where there are any. None: the data decide.
        apart: names of options that set a split apart from another one, and say nothing of any other split.
    """

    place: str
    options: str | None = None
    splits: bool = False
    test: bool = False
    images: str | None = None
    apart: tuple[str, ...] = ()

    def read(self, config: SourceConfig) -> list[Sample]:
        """Return what the reader finds, unchecked.

        Raises:
            ConfigError: an option is unknown or does not fit.
            DataError: a split is asked of a format without splits, or the data set is malformed.
        """
        name, _, function = self.place.partition(":")
        module = importlib.import_module(name)
        found: Callable[..., list[Sample]] = getattr(module, function)
        if not self.splits:
            refuse_split(config)
        return found(config, *self._options(module, config))

    def images_of(self, config: SourceConfig) -> int | None:
        """Return how many images a sample has, without looking at the data; None: the data decide.

        Raises:
            ConfigError: an option is unknown or does not fit.
        """
        if self.images is None:
            return None
        module = importlib.import_module(self.place.partition(":")[0])
        found: Callable[..., int] = getattr(module, self.images)
        return found(*self._options(module, config))

    def _options(self, module: ModuleType, config: SourceConfig) -> tuple[BaseModel, ...]:
        """Return the checked options as further arguments: none where there are no options."""
        if self.options is not None:
            return (checked_options(getattr(module, self.options), config),)
        if config.options:
            first = next(iter(config.options))
            raise ConfigError(f"reader {config.reader!r} was given the option {first!r}, but has none; take it out")
        return ()


def checked_options(kind: type[T], config: SourceConfig) -> T:
    """Return a reader's options.

    Raises:
        ConfigError: one is unknown or does not fit; each is named, with the nearest that is known.
    """
    try:
        return kind.model_validate(dict[str, Any](config.options))
    except ValidationError as error:
        raise ConfigError(f"data.options of reader {config.reader!r}: {describe(error, kind)}") from error

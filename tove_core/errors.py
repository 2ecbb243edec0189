"""The errors tove raises: one base, and one class for each thing a caller may want to handle differently.

Every message is one lower-case sentence: what was seen, what was wanted, what to do next.
"""

from __future__ import annotations

from typing import Literal


class ToveError(Exception):
    """Base of every error tove raises on purpose; the command line prints it without a traceback."""


class ConfigError(ToveError, ValueError):
    """A configuration value is missing, misspelt or contradicts another."""


class PluginError(ToveError):
    """A plugin could not be loaded, or code of it failed; the cause is chained."""


class UnknownExpertError(ToveError, LookupError):
    """No installed expert has the requested name."""


class AmbiguousExpertError(ToveError, LookupError):
    """Several distributions offer an expert of the requested name."""


class ContractError(ToveError, TypeError):
    """An expert's output differs from what its spec promises.

    Attributes:
        about: what is wrong: `outputs` (names, kinds, shapes), `regions` (their values), or `input` (written into).
    """

    def __init__(self, message: str, about: Literal["outputs", "regions", "input"] = "outputs") -> None:
        super().__init__(message)
        self.about = about


class WeightsError(ToveError, OSError):
    """Weights are missing, truncated, of the wrong format, or do not have the expected hash."""


class LicenseError(ToveError):
    """The licence of weights is not one that the model's policy admits; nothing was downloaded."""


class PlacementError(ToveError, RuntimeError):
    """An expert does not fit where its configuration puts it."""


class CheckpointError(ToveError, ValueError):
    """A checkpoint cannot be read, or does not fit what it is loaded into."""


class UploadError(ToveError, OSError):
    """A checkpoint could not be put on the hub."""


class ImageError(ToveError, ValueError):
    """An image cannot be read or is not usable."""


class DataError(ToveError, ValueError):
    """A data set is empty, malformed or refers to files that are not there."""


class Interrupted(ToveError):
    """A signal ended training between two steps, after its state was saved.

    Attributes:
        signal: its number; the command line exits with 128 plus it, as shells do.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int], dict[str, object]]:
        # By itself an exception is made again from its message alone.
        return type(self), (str(self), self.signal), self.__dict__

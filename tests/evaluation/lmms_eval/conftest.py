"""The adapter over lmms-eval itself where it is installed, and over a stand-in with the same interface everywhere."""

from __future__ import annotations

import abc
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ADAPTER = "tove_core.evaluation.lmms_eval"
WRAPPED = ("manifest", "model", "scored")


class lmms(abc.ABC):
    """What lmms-eval 0.7.3 asks of a model and gives it."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @abc.abstractmethod
    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]: ...

    @abc.abstractmethod
    def generate_until(self, requests: list[Any]) -> list[str]: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]: ...

    @classmethod
    def create_from_arg_string(cls, text: str, more: dict[str, Any] | None = None) -> Any:
        given = dict(part.split("=", 1) for part in text.split(",") if part)
        return cls(**given, **{key: value for key, value in (more or {}).items() if value is not None})

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    def clean(self) -> None:
        import torch

        for name in [name for name, value in vars(self).items() if isinstance(value, torch.nn.Module)]:
            delattr(self, name)


@dataclass
class GenerationResult:
    text: str
    token_counts: Any = None


@dataclass
class Instance:
    request_type: str
    arguments: tuple[Any, ...]
    idx: int
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments

    @property
    def task_name(self) -> str:
        return self.metadata["task"]


def unwrap_generation_output(output: Any) -> tuple[Any, Any]:
    if isinstance(output, GenerationResult):
        return output.text, output.token_counts
    if isinstance(output, str) or (isinstance(output, list) and all(isinstance(one, str) for one in output)):
        return output, None
    return str(output), None


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


STAND_IN = {
    "lmms_eval": {},
    "lmms_eval.api": {},
    "lmms_eval.api.model": {"lmms": lmms},
    "lmms_eval.api.instance": {
        "Instance": Instance,
        "GenerationResult": GenerationResult,
        "unwrap_generation_output": unwrap_generation_output,
    },
    "lmms_eval.models": {},
    "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
    "loguru": {"logger": SimpleNamespace(warning=print)},
}


@pytest.fixture(scope="module", params=["stand-in", "lmms-eval"])
def interface(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The adapter's `model` and `manifest` modules, lmms-eval's `instance` module, and what was `said` to people."""
    if request.param == "lmms-eval" and importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("lmms-eval is not installed (pip install tove-core[lmms-eval]); the stand-in is tested alone")
    with pytest.MonkeyPatch.context() as patch:
        for name in WRAPPED:
            patch.delitem(sys.modules, f"{ADAPTER}.{name}", raising=False)
        for name, content in STAND_IN.items() if request.param == "stand-in" else ():
            module = ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        modules = {name: importlib.import_module(f"{ADAPTER}.{name}") for name in WRAPPED}
        said: list[str] = []
        patch.setattr(modules["model"], "logger", SimpleNamespace(warning=said.append))
        instance = importlib.import_module("lmms_eval.api.instance")
        yield SimpleNamespace(**modules, instance=instance, said=said)
        for name in WRAPPED:
            sys.modules.pop(f"{ADAPTER}.{name}", None)

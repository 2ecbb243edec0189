from __future__ import annotations

import copy
import pickle

import pytest

from tove_core import errors
from tove_core.errors import ContractError, Interrupted, ToveError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ToveError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_gets_through_to_another_process_whole(kind: type[ToveError]) -> None:
    more = {Interrupted: (15,), ContractError: ("regions",)}
    error = kind("seen, wanted, do", *more.get(kind, ()))
    error.add_note("in worker 3")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind and str(again) == str(error)
        assert vars(again) == vars(error)

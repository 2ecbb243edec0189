from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest
import torch
from tove_kernels import choice, gated_activation_mix, gated_mix
from tove_kernels.choice import choose


@pytest.fixture
def triton(monkeypatch):
    """Say whether triton is there, and whether it was imported as an interpreter; None: not yet imported."""

    def there(installed=True, imported=None):
        monkeypatch.setattr(choice, "_has_triton", lambda: installed)
        monkeypatch.delitem(sys.modules, "triton.language.standard", raising=False)
        if imported is not None:
            kind = type("InterpretedFunction" if imported else "JITFunction", (), {})
            module = types.SimpleNamespace(zeros=kind())
            monkeypatch.setitem(sys.modules, "triton.language.standard", module)

    return there


@pytest.mark.parametrize(
    ("device", "env", "installed", "backend", "reason"),
    [
        ("cpu", {}, True, "reference", "the tensors are on cpu"),
        ("cuda", {}, True, "triton", "the tensors are on cuda"),
        ("cuda", {}, False, "reference", "triton is not installed"),
        ("cuda", {"TOVE_KERNELS": " Auto "}, True, "triton", "TOVE_KERNELS=auto"),
        ("cuda", {"TOVE_KERNELS": ""}, True, "triton", "TOVE_KERNELS=auto"),
        ("cuda", {"TOVE_KERNELS": "reference"}, True, "reference", "TOVE_KERNELS=reference"),
        ("cuda", {"TOVE_KERNELS": "triton"}, True, "triton", "TOVE_KERNELS=triton"),
        ("cpu", {"TOVE_KERNELS": "triton", "TRITON_INTERPRET": "1"}, True, "triton", "interpreter"),
        ("cpu", {"TRITON_INTERPRET": "1"}, True, "reference", "the tensors are on cpu"),
        ("mps", {}, True, "reference", "the tensors are on mps"),
        ("mps", {"TOVE_KERNELS": "compiled", "PATH": ""}, False, "compiled", "TOVE_KERNELS=compiled"),
    ],
)
def test_the_choice_and_its_reason(device, env, installed, backend, reason, triton):
    triton(installed)
    found = choose(device, env)
    assert found.backend == backend and reason in found.reason
    assert str(found) == f"{backend}: {found.reason}" and "\n" not in str(found)


@pytest.mark.parametrize(
    ("device", "installed", "imported", "message"),
    [
        ("cpu", True, None, "the tensors are on cpu; move them to cuda"),
        ("cuda", False, None, "triton is not installed"),
        ("mps", True, None, "the tensors are on mps"),
    ],
)
def test_triton_where_it_cannot_run_is_an_error_and_no_fallback(device, installed, imported, message, triton):
    triton(installed, imported)
    with pytest.raises(RuntimeError, match=message):
        choose(device, {"TOVE_KERNELS": "triton"})


def test_an_interpreter_asked_for_too_late_is_an_error(triton):
    late = {"TOVE_KERNELS": "triton", "TRITON_INTERPRET": "1"}
    triton(True, imported=False)
    with pytest.raises(RuntimeError, match="after triton was imported"):
        choose("cpu", late)
    triton(True, imported=True)
    assert choose("cpu", late).backend == "triton"


def test_compiling_for_a_cpu_wants_the_compiler_that_torch_would_take(tmp_path):
    asked = {"TOVE_KERNELS": "compiled", "CXX": "my-c++ -m64", "PATH": str(tmp_path)}
    with pytest.raises(RuntimeError, match=r"=compiled, but there is no C\+\+ compiler 'my-c\+\+ -m64'.*in CXX"):
        choose("cpu", asked)
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler '(g\+\+|clang\+\+|cl)'"):
        choose("cpu", asked | {"CXX": ""})
    (tmp_path / "my-c++").touch(mode=0o755)
    choice._on_path.cache_clear()
    assert choose("cpu", asked).backend == "compiled"


def test_an_unknown_wish_is_refused():
    with pytest.raises(ValueError, match="'cuda'; wanted one of auto, reference, compiled, triton"):
        choose("cpu", {"TOVE_KERNELS": "cuda"})


def test_the_operators_ask_at_each_call(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    tokens, logits = torch.randn(1, 2, 3), torch.zeros(1, 2, 1)
    for call in (lambda: gated_mix(tokens, [tokens], logits), lambda: gated_activation_mix([tokens], None, logits)):
        monkeypatch.setenv("TOVE_KERNELS", "triton")
        with pytest.raises(RuntimeError, match="TOVE_KERNELS=triton, but the tensors are on cpu"):
            call()
        monkeypatch.setenv("TOVE_KERNELS", "auto")
        assert call().shape == (1, 2, 3)


def test_choosing_imports_neither_torch_nor_triton():
    code = "import sys; from tove_kernels.choice import choose; print(choose('cuda').backend, choose('cpu').backend)\n"
    code += "print(sorted({'torch', 'triton', 'numpy'} & set(sys.modules)))"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TOVE_", "TRITON_"))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[1] == "[]"


def test_without_a_c_compiler_triton_is_not_chosen_for_a_gpu(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    bare = {"PATH": str(tmp_path)}
    assert str(choose("cuda", bare)).startswith("reference: TOVE_KERNELS=auto, and there is no C compiler")
    with pytest.raises(RuntimeError, match=r"=triton, but there is no C compiler.*install gcc, name one in CC"):
        choose("cuda", bare | {"TOVE_KERNELS": "triton"})
    assert choose("cuda", bare | {"CC": "my-cc"}).backend == "triton"

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_without_gradio_one_sentence_says_what_to_install(
    tove: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    assert "pip install 'tove-core[app]'" in tove("app", tmp_path).error


class TestRefusals:
    """What is refused before a model is loaded."""

    @pytest.fixture(autouse=True)
    def _gradio(self) -> None:
        pytest.importorskip("gradio", reason="gradio is not installed: pip install 'tove-core[app]'")

    def test_a_port_that_is_taken(self, tove: Any, run: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert f"port {port} of 127.0.0.1 cannot be listened on" in tove("app", run, "--port", port).error

    def test_an_example_that_is_no_image(self, tove: Any, run: Path, tmp_path: Path) -> None:
        (tmp_path / "words.png").write_text("no image")
        assert "words.png is not an image" in tove("app", run, "--image", tmp_path / "words.png").error

    def test_a_run_that_is_not_there(self, tove: Any, tmp_path: Path) -> None:
        assert "nowhere" in tove("app", tmp_path / "nowhere").error

    def test_sharing_where_the_network_is_forbidden(self, tove: Any, run: Path) -> None:
        assert "leave it out" in tove("app", run, "--share").error

    def test_a_device_that_is_not_there(self, tove: Any, run: Path) -> None:
        assert "--device" in tove("app", run, "--device", "cuda:77").error


def files(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.rglob("*") if one.is_file())


def test_a_run_is_served_asked_and_ended_by_ctrl_c(toy: Any, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'tove-core[app]'")
    client = pytest.importorskip("gradio_client", reason="gradio's client is not installed")
    from tove_core.model import ToveModel

    with socket.create_server(("127.0.0.1", 0)) as tried:
        port = tried.getsockname()[1]
    path = os.pathsep.join(filter(None, (str(toy.site), os.environ.get("PYTHONPATH"))))
    example, image = toy.pictures(2)
    words = ["app", str(run), "--port", str(port), "--image", str(example), "--max-new-tokens", "3"]
    server = subprocess.Popen(
        [sys.executable, "-m", "tove_core", *words],
        env=os.environ | {"PYTHONPATH": path, "GRADIO_TEMP_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell without job control has its background jobs ignore Ctrl-C, and with it what a test starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert server.stdout is not None
        first = server.stdout.readline()
        assert first == f"serving http://127.0.0.1:{port}/\n", server.communicate()
        page = client.Client(f"http://127.0.0.1:{port}/", verbose=False)
        said, *_ = page.predict(
            client.handle_file(image), "what colour is it?", list(toy.experts), False, api_name="/ask"
        )
        model = ToveModel.from_pretrained(run)
        assert said == model.answer(image, "what colour is it?", max_new_tokens=3)[0]
        page.close()
        assert files(tmp_path) == sorted([Path(example).name, Path(image).name])
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    finally:
        server.kill()
    assert server.returncode == 0 and "Traceback" not in errors, errors
    assert files(tmp_path) == [Path(example).name], "what was uploaded is deleted"

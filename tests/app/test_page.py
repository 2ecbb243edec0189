"""The page itself, served on a free port of this machine and asked as a browser and as gradio's client do."""

from __future__ import annotations

import base64
import io
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'tove-core[app]'")
gradio_client = pytest.importorskip("gradio_client", reason="gradio's client is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")
QUESTION = "what colour is it?"


class Served(NamedTuple):
    """A page that is being served, and the model behind it."""

    address: str
    model: Any
    client: Any
    image: Path


class Loads(HTMLParser):
    """What a browser fetches for a page, and the first words of its captions."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.captions: list[str] = []
        self._inside = ""

    @classmethod
    def of(cls, page: str) -> Loads:
        found = cls()
        found.feed(page)
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given, self._inside = dict(attrs), tag
        if tag in ("script", "img", "iframe", "link") and (place := given.get("src") or given.get("href")):
            self.places.append(place)

    def handle_data(self, data: str) -> None:
        if self._inside == "figcaption":
            self.captions.append(data.partition(":")[0])
            self._inside = ""


@pytest.fixture(scope="module")
def served(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from tove_core.app.facts import facts
    from tove_core.app.host import Host
    from tove_core.app.serve import free_port, start

    model = toy.build(decoder={"max_new_tokens": 60}, seed=3)
    model.calibrate(toy.pictures(4))
    draw = torch.Generator().manual_seed(8)
    for name, parameter in model.fusion.named_parameters():
        if name.startswith("gate."):
            parameter.data += 0.5 * torch.randn(parameter.shape, generator=draw)
    with socket.create_server(("127.0.0.1", 0)) as tried:
        port = tried.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        image = Path(toy.pictures(1)[0])
        foot = facts(model, "<toy>", [])
        host = Host(model)
        page, local, public = start(host, "<toy>", foot, [image], "127.0.0.1", free_port("127.0.0.1", port), False)
        try:
            assert public is None and local == f"http://127.0.0.1:{port}/"
            yield Served(local, model, gradio_client.Client(local, verbose=False), image)
        finally:
            page.close(verbose=False)


def ask(served: Served, image: Any, *values: Any) -> Any:
    return served.client.predict(image, *values, api_name="/ask")


def test_an_uploaded_image_is_answered_as_the_model_does_with_a_map_for_each_expert(served: Served, toy: Any) -> None:
    said, plain, maps, note = ask(served, gradio_client.handle_file(served.image), QUESTION, list(toy.experts), True)
    assert said == served.model.answer(served.image, QUESTION)[0] != ""
    for name in toy.experts:
        served.model.detach(name)
    assert plain == served.model.answer(served.image, QUESTION)[0] != ""
    for name in toy.experts:
        served.model.attach(name)
    found = Loads.of(maps)
    assert found.captions == list(toy.experts)
    for place in found.places:
        content = base64.b64decode(place.removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width == picture.height > 100
    assert len(set(found.places)) == len(found.captions), "gates differ"
    assert "1 is the weight of equal gates" in note


def test_experts_are_switched_for_the_one_who_asks(served: Served) -> None:
    said, plain, maps, _ = ask(served, gradio_client.handle_file(served.image), "", ["toy-wide"], False)
    served.model.detach("toy-fine")
    served.model.detach("toy-whole")
    assert said == served.model.caption(served.image)[0]
    served.model.attach("toy-fine")
    served.model.attach("toy-whole")
    assert plain == "" and Loads.of(maps).captions == ["toy-wide"]


def test_the_answer_comes_piece_by_piece(served: Served, toy: Any) -> None:
    job = served.client.submit(
        gradio_client.handle_file(served.image), QUESTION, list(toy.experts), False, api_name="/ask"
    )
    last = job.result()[0]
    texts = [values[0] for values in job.outputs()]
    assert len(texts) > 2 and texts[0] == "" and texts[-1] == last
    assert all(last.startswith(text) for text in texts)


def test_faults_are_sentences_and_the_page_goes_on(served: Served, toy: Any, tmp_path: Path) -> None:
    (broken := tmp_path / "broken.png").write_bytes(served.image.read_bytes()[:90])
    (words := tmp_path / "words.png").write_text("no image")
    good = gradio_client.handle_file(served.image)
    on = list(toy.experts)
    for told, values in (
        ("is truncated or damaged", (gradio_client.handle_file(broken), QUESTION, on, False)),
        ("is not an image that Pillow can open", (gradio_client.handle_file(words), QUESTION, on, False)),
        ("no image was given; upload one", (None, QUESTION, on, False)),
        ("use shorter text", (good, "what? " * 2000, on, False)),
        ("holds &lt;image&gt; 2 times", (good, "<image> or <image>", on, False)),
        ("not in the list of choices", (good, QUESTION, ["nobody"], False)),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=re.escape(told)) as fault:
            ask(served, *values)
        assert "Traceback" not in str(fault.value) and "\n" not in str(fault.value)
    assert ask(served, good, QUESTION, on, False)[0] == served.model.answer(served.image, QUESTION)[0]


def test_what_fails_unforeseen_is_a_sentence_too(
    served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("secret of the machine")

    monkeypatch.setattr(type(served.model.tower), "forward", failing)
    with pytest.raises(gradio_client.exceptions.AppError, match="the model failed") as fault:
        ask(served, gradio_client.handle_file(served.image), QUESTION, [], False)
    assert "secret" not in str(fault.value), "visitors are not told what its terminal is"
    assert "secret of the machine" in capfd.readouterr().err


def test_two_visitors_at_once_get_their_own_answers(served: Served, toy: Any) -> None:
    clients = [gradio_client.Client(served.address, verbose=False) for _ in range(2)]
    choices = [list(toy.experts), []]
    image = gradio_client.handle_file(served.image)
    right = [ask(served, image, "", on, False)[0] for on in choices]
    assert right[0] != right[1]
    found: dict[int, list[str]] = {0: [], 1: []}

    def visit(number: int) -> None:
        for _ in range(3):
            found[number].append(clients[number].predict(image, "", choices[number], False, api_name="/ask")[0])

    threads = [threading.Thread(target=visit, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [text] * 3 for number, text in enumerate(right)}


def test_nothing_is_loaded_from_elsewhere(served: Served) -> None:
    with urllib.request.urlopen(served.address) as answer:
        page, policy = answer.read().decode(), answer.headers["content-security-policy"]
    places, own = Loads.of(page).places, ("./", "/", "data:", served.address)
    assert places and [place for place in places if not place.startswith(own) or place.startswith("//")] == []
    assert "default-src 'self'" in policy and "http" not in policy
    with urllib.request.urlopen(f"{served.address}theme.css") as answer:
        theme = answer.read().decode()
    assert "system-ui" in theme and re.findall(r"@import|url\(.?(?!data:)\w[^)]*", theme) == []


def test_the_page_names_the_model_as_text_and_analytics_are_off(served: Served) -> None:
    with urllib.request.urlopen(f"{served.address}config") as answer:
        config = answer.read().decode()
    assert "<toy>" not in re.sub(r'"title":\s*"[^"]*"', "", config) and "&lt;toy&gt;" in config
    assert re.search(r'"analytics_enabled":\s*false', config)


@pytest.mark.parametrize("place", ["toy", "passwd"])
def test_files_of_the_machine_are_not_given_out(served: Served, toy: Any, place: str) -> None:
    path = toy.data if place == "toy" else Path("/etc/passwd")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{served.address}gradio_api/file={path}")
    assert refused.value.code in (403, 404)

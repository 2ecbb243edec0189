"""Round trips over a hub on this machine: pushed, loaded elsewhere, bit for bit; and every way a push can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tove_core import ToveModel
from tove_core.config import RunConfig
from tove_core.errors import CheckpointError, LicenseError, UploadError, WeightsError
from tove_core.hub.lock import Lock
from tove_core.publishing.push import push_folder
from tove_core.training.run import train

pytestmark = [
    pytest.mark.filterwarnings("ignore:this model was never trained"),
    pytest.mark.filterwarnings("ignore:.*is on this machine alone"),
    pytest.mark.filterwarnings("ignore:.*has a README"),
]
REPO = "somebody/model"


@pytest.fixture
def online(hub: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub, with somebody logged in who may write to what is theirs."""
    monkeypatch.delenv("TOVE_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    hub.owners["hf_writer"] = {"somebody"}
    return hub


def made(toy: Any, seed: int = 0, **options: Any) -> Any:
    model = toy.build(["toy-fine", "toy-wide"], seed=seed, **options)
    model.calibrate(toy.pictures(3))
    return model


def assert_same(one: Any, other: Any, toy: Any) -> None:
    assert torch.equal(one.tokens(toy.pictures()), other.tokens(toy.pictures()))
    assert one.caption(toy.pictures(2)) == other.caption(toy.pictures(2))
    assert (one.config, one.provenance, one.origin) == (other.config, other.provenance, other.origin)


def elsewhere(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Go on as another machine: no cache, no lock file, nobody logged in."""
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "cache"))
    monkeypatch.setenv("TOVE_HOME", str(place / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def files(hub: Any, revision: str = "main") -> dict[str, bytes]:
    return hub.files[REPO][hub.commit_of(REPO, revision)]


@pytest.mark.parametrize("full", [False, True])
def test_what_is_pushed_is_loaded_bit_for_bit_elsewhere_and_then_offline(
    online: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    model = made(toy)
    allowed = [toy.clip, toy.decoder] if full else []
    assert model.push_to_hub(REPO, full=full, allow=allowed) == f"{online.url}/{REPO}"
    assert any(name.startswith("frozen/decoder/") for name in files(online)) == full
    elsewhere(monkeypatch, tmp_path)
    if full:  # nothing but the repository is needed
        for place in (toy.clip.partition(":")[2], toy.decoder):
            shutil.move(place, tmp_path / Path(place).name)
    try:
        loaded = ToveModel.from_pretrained(REPO)
        assert_same(model, loaded, toy)
        online.requests.clear()
        monkeypatch.setenv("TOVE_OFFLINE", "1")
        assert_same(model, ToveModel.from_pretrained(REPO), toy)
        assert online.requests == []
    finally:
        if full:
            for place in (toy.clip.partition(":")[2], toy.decoder):
                shutil.move(tmp_path / Path(place).name, place)


def test_a_byte_changed_on_the_hub_is_refused(online: Any, toy: Any) -> None:
    made(toy).push_to_hub(REPO)
    content = bytearray(files(online)["model.safetensors"])
    content[-1] ^= 1
    files(online)["model.safetensors"] = bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors has sha256"):
        ToveModel.from_pretrained(REPO)


def test_a_branch_is_made_pushed_to_and_loaded(online: Any, toy: Any) -> None:
    first, second = made(toy), made(toy, seed=1)
    first.push_to_hub(REPO, commit_message="the first")
    address = second.push_to_hub(REPO, revision="next", commit_message="the second")
    assert address == f"{online.url}/{REPO}/tree/next" and online.messages == ["the first", "the second"]
    assert_same(first, ToveModel.from_pretrained(REPO), toy)
    assert_same(second, ToveModel.from_pretrained(REPO, revision="next"), toy)
    assert_same(first, ToveModel.from_pretrained(REPO, revision=online.main[REPO]), toy)
    assert_same(second, ToveModel.from_pretrained(f"{REPO}@next"), toy)


def test_a_run_starts_from_a_checkpoint_of_the_hub_at_a_revision(online: Any, toy: Any, tmp_path: Path) -> None:
    made(toy).push_to_hub(REPO)
    held = made(toy, seed=1)
    held.push_to_hub(REPO, revision="next")
    model = {key: value for key, value in held.config.model_dump(mode="json").items() if key != "seed"}
    still = {"steps": 1, "batch_size": 2, "warmup": 0, "learning_rate": 1e-12, "weight_decay": 0.0}
    given = {"model": model, "data": {"path": toy.data}, "training": still, "output": tmp_path / "run"}
    begun = train(RunConfig.model_validate(given | {"start": f"{REPO}@next"}), quiet=True)
    assert torch.allclose(begun.fusion.second.weight, held.fusion.second.weight, atol=1e-9)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["start"] == f"{REPO}@next"
    with pytest.raises(CheckpointError, match="there is no folder 'somebody/absent', and no such checkpoint"):
        train(RunConfig.model_validate(given | {"start": "somebody/absent", "output": tmp_path / "two"}), quiet=True)


def test_a_later_push_replaces_the_checkpoint_and_says_what_is_held_here(online: Any, toy: Any) -> None:
    made(toy).push_to_hub(REPO, full=True, allow=[toy.clip, toy.decoder])
    ToveModel.from_pretrained(REPO)
    held, commits = online.main[REPO], len(online.messages)
    files(online)["notes.txt"] = b"by hand"
    with pytest.warns(UserWarning, match=rf"holds {REPO} to commit {held[:12]}; .*tove weights update {REPO}"):
        made(toy, seed=1).push_to_hub(REPO)
    assert sorted(files(online)) == [".gitattributes", "README.md", "model.safetensors", "notes.txt", "tove.json"]
    assert len(online.messages) == commits + 1


def test_the_page_of_a_repository_is_written_once(online: Any, toy: Any) -> None:
    made(toy).push_to_hub(REPO)
    page = files(online)["README.md"].decode()
    front = yaml.safe_load(page.split("---")[1])
    assert front["library_name"] == "tove" and front["pipeline_tag"] == "image-text-to-text"
    assert "license" not in front and "base_model" not in front
    assert f'ToveModel.from_pretrained("{REPO}")' in page and " toy-experts==1.0\n" in page
    files(online)["README.md"] = b"mine"
    with pytest.warns(UserWarning, match=r"has a README\.md, which stays"):
        made(toy, seed=1).push_to_hub(REPO)
    assert files(online)["README.md"] == b"mine"


def test_private_is_private_or_refused(online: Any, toy: Any) -> None:
    model = made(toy, decoder=None)
    model.push_to_hub(REPO, private=True)
    assert online.private == {REPO}
    model.push_to_hub(REPO, private=True)
    model.push_to_hub("somebody/open")
    before = online.main["somebody/open"]
    with pytest.raises(UploadError, match="somebody/open exists and is public"):
        model.push_to_hub("somebody/open", private=True)
    assert online.main["somebody/open"] == before and online.private == {REPO}


def test_weights_of_others_are_not_passed_on_unless_their_terms_were_read(online: Any, toy: Any) -> None:
    with pytest.raises(LicenseError) as caught:
        made(toy).push_to_hub(REPO, full=True)
    lines = str(caught.value).splitlines()
    assert [line.split("'")[0] for line in lines] == ["CLIP ", "language model "]  # toy-wide's are MIT
    assert all("--allow" in line and "without --full" in line for line in lines)
    assert online.requests == []


def test_what_stands_in_the_way_is_said_in_a_sentence(online: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(toy, decoder=None)

    def said(repo: str = REPO) -> str:
        with pytest.raises(UploadError) as caught:
            model.push_to_hub(repo)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for text in ("model", "./somebody/model", "a/b/c", ""):
        assert f"{text!r} is not a hub id" in said(text)
    with pytest.raises(UploadError, match="is a commit, which nothing can be added to"):
        model.push_to_hub(REPO, revision="a" * 40)
    assert "no right to write to others/model" in said("others/model")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "does not accept your token" in said()
    monkeypatch.delenv("HF_TOKEN")
    assert "nobody is logged in" in said()
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "check the connection to the hub" in said()
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    assert "cannot be pushed to offline; unset TOVE_OFFLINE" in said()
    assert online.files == {}


def test_an_altered_checkpoint_is_not_pushed(online: Any, toy: Any, tmp_path: Path) -> None:
    folder = made(toy).save_pretrained(tmp_path / "it")
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="altered or truncated"):
        push_folder(folder, REPO)
    assert online.requests == []


def test_of_a_merged_model_both_forms_are_pushed(
    online: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.config import MergeConfig
    from tove_core.merging.merge import merge
    from tove_core.merging.write import write_merged

    model = made(toy)
    merged = merge(model, toy.examples(model), MergeConfig(steps=1, batch_size=2))
    write_merged(merged, tmp_path / "merged")
    (tmp_path / "merged" / "config.yaml").write_text("output: /on/this/machine\n")
    with pytest.raises(LicenseError) as caught:
        push_folder(tmp_path / "merged", REPO)
    assert "without --full" not in str(caught.value)  # it has no other form
    push_folder(tmp_path / "merged", REPO, allow=[toy.clip, toy.decoder])
    names = files(online)
    assert {"open_clip_config.json", "open_clip_model.safetensors", "checkpoint/tove.json"} < set(names)
    assert "config.yaml" not in names
    elsewhere(monkeypatch, tmp_path)
    loaded = ToveModel.from_pretrained(REPO)
    assert torch.equal(merged.tokens(toy.pictures()), loaded.tokens(toy.pictures()))
    (tmp_path / "merged" / "open_clip_model.safetensors").write_bytes(b"another")
    with pytest.raises(CheckpointError, match="is not the CLIP of the checkpoint"):
        push_folder(tmp_path / "merged", REPO, allow=[toy.clip, toy.decoder])


def test_the_command_pushes_a_folder_as_it_is_and_commands_that_read_take_its_id(
    online: Any, toy: Any, tmp_path: Path, tove: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(toy)
    folder = model.save_pretrained(tmp_path / "run" / "checkpoint")
    evaluate = ("--data", toy.data, "--task", "exact-match", "--quiet", "--out")
    assert tove("evaluate", tmp_path / "run", *evaluate, tmp_path / "run" / "test")[0] == 0
    code, out, err = tove("push", tmp_path / "run", REPO, "--private", "--message", "my words")
    assert (code, out) == (0, f"pushed {tmp_path / 'run'} to {online.url}/{REPO}\n"), err
    assert "note: CLIP 'local-dir:" in err and "on this machine alone" in err
    assert all(files(online)[name] == (folder / name).read_bytes() for name in ("tove.json", "model.safetensors"))
    assert online.messages == ["my words"] and online.private == {REPO}
    monkeypatch.chdir(tmp_path)
    picture = toy.data.parent / "1.png"
    code, out, err = tove("caption", REPO, picture)
    assert (code, out) == (0, f"{picture}: {model.caption(picture)[0]}\n"), err
    code, out, err = tove("evaluate", REPO, *evaluate, tmp_path / "scored")
    assert code == 0, err
    scores = json.loads((tmp_path / "scored" / "scores.json").read_text())
    assert scores == json.loads((tmp_path / "run" / "test" / "scores.json").read_text())
    page = files(online)["README.md"].decode()
    for metric, row in scores["scores"].items():
        assert f"| toy.jsonl (train) | {scores['samples']} | exact-match | {metric} | {row['value']:.4f} |" in page
    assert str(tmp_path) not in page
    code, out, err = tove("detach", REPO, "toy-wide", "--out", tmp_path / "less")
    assert code == 0 and ToveModel.from_pretrained(tmp_path / "less").active_experts == ["toy-fine"], err


def test_full_writes_the_frozen_parts_of_a_checkpoint_by_reference(
    online: Any, toy: Any, tmp_path: Path, tove: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(toy)
    model.save_pretrained(tmp_path / "it")
    code, _, err = tove("push", tmp_path / "it", REPO, "--full")
    assert code == 1 and err.count("--allow") == 2, err
    code, _, err = tove("push", tmp_path / "it", REPO, "--full", "--allow", toy.clip, "--allow", toy.decoder)
    assert code == 0 and json.loads(files(online)["tove.json"])["full"], err
    elsewhere(monkeypatch, tmp_path)
    assert_same(model, ToveModel.from_pretrained(REPO), toy)
    assert Lock().pin(REPO) == online.main[REPO]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("caption", "nobody/none", "{image}"), "there is no folder 'nobody/none', and no such checkpoint on the hub"),
        (("evaluate", "nobody/none", "--data", "{data}"), "nobody/none does not exist or is private"),
        (("contributions", "nobody/none"), "'tove contributions' takes none of the hub: it needs a run's folder"),
        (("merge", "nobody/none", "--out", "{out}"), "'tove merge' takes none of the hub"),
        (("push", "nobody/none", REPO), "'tove push' takes none of the hub: it needs the folder of a checkpoint"),
        (("diagnose", "nobody/none", "--out", "{out}"), "nobody/none does not exist"),
        (("caption", "./nobody/none", "{image}"), "there is no folder nobody/none"),
        (("caption", "nobody/none/checkpoint", "{image}"), "there is no folder nobody/none/checkpoint"),
    ],
)
def test_a_command_says_in_a_sentence_that_there_is_no_such_place(
    online: Any, toy: Any, tmp_path: Path, tove: Any, words: tuple[str, ...], message: str
) -> None:
    places = {"image": toy.data.parent / "1.png", "data": toy.data, "out": tmp_path / "out"}
    code, _, err = tove(*(word.format(**places) for word in words))
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(errors) == 1 and message in errors[0], err
    assert bool(online.requests) == ("on the hub" in errors[0])


def test_data_of_a_checkpoint_from_the_hub_must_be_named(online: Any, toy: Any, tove: Any) -> None:
    made(toy).push_to_hub(REPO)
    code, _, err = tove("evaluate", REPO)
    assert code == 1 and f"{REPO} does not say which data its model was made for; give --data" in err

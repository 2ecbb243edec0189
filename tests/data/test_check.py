from __future__ import annotations

import json
import warnings

import pytest
import typer
from PIL import Image

from tove_core.cli.main import app
from tove_core.config import DataConfig
from tove_core.data.broken import BrokenImages, try_image
from tove_core.data.check import check
from tove_core.data.readers import collect, read, read_counted
from tove_core.errors import DataError


@pytest.fixture
def faulty(tmp_path):
    """Twelve samples: one image is missing, one empty and one no image; an id comes twice; one has no target."""
    for number in range(12):
        Image.new("RGB", (10 + number, 20), "red").save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").unlink()
    (tmp_path / "4.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes(b"no image")
    rows = [{"image": f"{n}.png", "text": "two words"} for n in range(12)]
    rows[7] = {"image": "7.png", "question": "how many words?", "answer": "three", "id": "line 1"}
    rows[8] = {"image": "8.png"}
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "data.jsonl"


def run(*words: str) -> int:
    try:
        return typer.main.get_command(app)(["data", "check", *words], standalone_mode=False) or 0
    except typer.Exit as stopped:
        return stopped.exit_code


def test_every_fault_is_found_and_named(faulty):
    (part,) = collect(DataConfig(path=faulty))
    done = []
    report = check(part, show=2, progress=lambda n, total: done.append((n, total)))
    assert (report.samples, report.captions, report.images) == (12, 11, 12)
    assert report.missing == ["3.png"] and report.repeated == ["line 1"] and report.bare == ["line 9"]
    assert [one.partition(" is ")[0] for one in report.broken] == [str(faulty.parent / f"{n}.png") for n in (4, 5)]
    assert report.faults == 5
    assert (report.sides.low, report.sides.high) == (10, 21)
    assert (report.prompt_words.middle, report.target_words.high) == (3, 2)
    assert [s.id for s in report.shown] == ["line 1", "line 7"]
    assert done[-1] == (12, 12)


def test_without_decoding_only_files_are_looked_for(faulty):
    (part,) = collect(DataConfig(path=faulty))
    report = check(part, decode=False)
    assert report.broken is None and report.sides is None and report.missing == ["3.png"]


def test_the_command_fails_on_faults_and_prints_them_for_people_and_programs(faulty, capsys):
    assert run(f"jsonl:{faulty}", "--json") == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["data"], report["faults"], report["images_per_sample"]["low"]) == ("data", 5, 1)
    assert run(f"jsonl:{faulty}", "--samples", "1") == 1
    printed = capsys.readouterr().out
    assert "missing images  1\n    3.png" in printed and "sample 'line 1'" in printed
    assert run(f"jsonl:{faulty}", "--set", "limit=3", "--quick") == 0


def test_the_command_looks_at_data_and_validation_of_a_run(faulty, tmp_path, capsys):
    run_file = tmp_path / "run.yaml"
    run_file.write_text(f"data: {{path: {faulty}, limit: 2}}\nvalidation: {{path: {faulty}, limit: 3}}\n")
    assert run(str(run_file), "--json") == 0
    assert [(r["data"], r["samples"]) for r in json.loads(capsys.readouterr().out)] == [("data", 2), ("validation", 3)]


@pytest.mark.parametrize(("limit", "read_samples", "missing"), [(None, 3, 2), (4, 3, 2), (3, 3, 1), (1, 1, 0)])
def test_missing_images_behind_the_last_sample_are_counted_unless_the_limit_ends_before(
    tmp_path, limit, read_samples, missing
):
    for name in ("a", "c", "d"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    rows = [json.dumps({"image": f"{name}.png", "text": name}) for name in "abcde"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    with pytest.warns(UserWarning, match="2 of 5 images are not in"):
        found = read_counted(DataConfig(path=tmp_path / "rows.jsonl", max_broken=0.5, limit=limit))
    assert (len(found.samples), found.missing) == (read_samples, missing)


def test_missing_images_are_left_out_with_a_warning_up_to_the_limit(faulty):
    config = DataConfig(path=faulty, max_broken=0.1)
    faulty.write_text("\n".join(faulty.read_text().splitlines()[:7]))
    with pytest.raises(DataError, match=r"1 of 7 images .*first: 3\.png.*raise data\.max_broken \(now 0\.1\)"):
        read(config)
    with pytest.warns(UserWarning, match=r"1 of 7 images .*; 1 of 7 samples of .* are left out"):
        samples = read(config.model_copy(update={"max_broken": 0.2}))
    assert [s.id for s in samples] == [f"line {n}" for n in (1, 2, 3, 5, 6, 7)]


def test_unreadable_images_are_counted_once_each_and_stop_the_run_beyond_the_limit(faulty):
    images = [faulty.parent / f"{n}.png" for n in range(12)]
    broken = BrokenImages(12, 0.2)

    def decoded(row):
        return broken.kept(row, try_image(images[row]))

    with pytest.warns(UserWarning, match=r"4\.png is empty.*1 of 12 images so far"):
        found = decoded(4), decoded(0)
    assert found[0] is None and found[1].shape == (3, 20, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decoded(4), decoded(4)) == (None, None)
    with pytest.warns(UserWarning, match=r"5\.png is not an image"):
        decoded(5)
    with pytest.raises(DataError, match=r"3 of 12 images cannot be used, more than data\.max_broken \(0\.2\)"):
        decoded(3)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tove_core.config import DecoderConfig
from tove_core.errors import CheckpointError, WeightsError
from tove_core.language.load import load_decoder, save_decoder
from tove_core.language.outline import DecoderOutline

CODE = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}


def changed(folder: Path, **changes: Any) -> DecoderConfig:
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))
    return DecoderConfig(name=str(folder))


@pytest.fixture
def saved(make: Any, tmp_path: Path) -> Path:
    decoder = make("llama")
    decoder.language_model.save_pretrained(tmp_path / "lm")
    decoder.tokenizer.save_pretrained(tmp_path / "lm")
    # What running it would leave behind.
    (tmp_path / "lm" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    return tmp_path / "lm"


def test_a_decoder_that_brings_code_is_refused_with_the_reason_and_its_code_is_not_run(saved: Path) -> None:
    config = changed(saved, model_type="own", **CODE)
    for load in (lambda: load_decoder(config, width=11), lambda: DecoderOutline(config, 11)):
        with pytest.raises(WeightsError, match="tove runs no code from a model repository; choose a language") as said:
            load()
        assert "while online" not in str(said.value)
    assert not (saved.parent / "ran").exists()


def test_a_decoder_that_transformers_knows_is_loaded_although_code_lies_beside_it(saved: Path) -> None:
    assert load_decoder(changed(saved, **CODE), width=11).width == 11
    assert not (saved.parent / "ran").exists()


def test_a_language_model_is_not_written_where_a_file_stands(make: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", str(tmp_path / "file" / "below")):
        with pytest.raises(CheckpointError, match=r"file.* cannot be written"):
            save_decoder(make("llama"), place)
    assert (tmp_path / "file").read_text() == "kept"
    save_decoder(make("llama"), str(tmp_path / "new" / "folder"))
    assert load_decoder(DecoderConfig(name=str(tmp_path / "new" / "folder")), width=11).width == 11


def test_other_faults_of_a_folder_keep_their_own_reason(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="could not be loaded"):
        load_decoder(DecoderConfig(name=str(saved)), width=11)

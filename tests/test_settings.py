from __future__ import annotations

from pathlib import Path

import pytest

from tove_core import build
from tove_core.config import ModelConfig, RunConfig
from tove_core.errors import CheckpointError, ConfigError
from tove_core.settings import read_config, write_config


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "run.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_no_file_means_all_defaults():
    assert read_config(RunConfig, None) == RunConfig()


def test_an_empty_file_means_all_defaults(written):
    assert read_config(RunConfig, written("# nothing yet\n")) == RunConfig()


def test_what_is_written_is_read_back(tmp_path):
    config = read_config(RunConfig, None, ["model.experts=[a, 'b:small']", "training.steps=7", "data.path=x/y.jsonl"])
    write_config(config, tmp_path / "resolved.yaml")
    assert read_config(RunConfig, tmp_path / "resolved.yaml") == config


def test_a_configuration_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "config.yaml"
    write_config(RunConfig(seed=5), path)
    path.with_name(".config.yaml.tmp").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"config\.yaml cannot be written .*No space left.*; make room"):
        write_config(RunConfig(seed=6), path)
    assert read_config(RunConfig, path).seed == 5
    assert [found.name for found in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("seed", [-1, 2**32, 99999999999999999999])
def test_a_seed_that_torch_or_numpy_does_not_take_is_refused(seed):
    with pytest.raises(ConfigError, match=r"^seed: it should be .* than or equal to \d+ \(got -?\d+\)$"):
        read_config(RunConfig, None, [f"seed={seed}"])


def test_overrides_reach_nested_keys_and_win_over_the_file(written):
    path = written("training: {steps: 5, batch_size: 3}\nseed: 1\n")
    config = read_config(RunConfig, path, ["training.steps=9", "seed=2", "seed=3", "model.fusion.gate.null=true"])
    assert (config.training.steps, config.training.batch_size, config.seed) == (9, 3, 3)
    assert config.model.fusion.gate.null is True


def test_an_override_may_hold_an_equals_sign_and_a_list():
    config = read_config(RunConfig, None, ["model.decoder.caption_prompt='a=b'", "training.betas=[0.8, 0.9]"])
    assert config.model.decoder is not None
    assert config.model.decoder.caption_prompt == "a=b"
    assert config.training.betas == (0.8, 0.9)


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_numbers_may_be_written_with_an_exponent(text):
    assert read_config(RunConfig, None, [f"training.learning_rate={text}"]).training.learning_rate == 1e-3


def test_overrides_reach_list_items_by_index(written):
    path = written("experts: [{name: a}, {name: b}]\n")
    config = read_config(ModelConfig, path, ["experts.1.dtype=bfloat16", "experts.0=c"])
    assert [(expert.name, expert.dtype) for expert in config.experts] == [("c", "float32"), ("b", "bfloat16")]


@pytest.mark.parametrize("override", ["experts.2.dtype=float16", "experts.2=c", "experts.first.dtype=float16"])
def test_a_list_item_that_is_not_there_is_named(written, override):
    with pytest.raises(ConfigError, match=r"there is no '(2|first)' at that place"):
        read_config(ModelConfig, written("experts: [{name: a}, {name: b}]\n"), [override])


def test_an_override_into_a_plain_value_is_refused(written):
    with pytest.raises(ConfigError, match="which has no keys"):
        read_config(RunConfig, written("seed: 3\n"), ["seed.x=1"])


@pytest.mark.parametrize("override", ["seed", "=3", " =3"])
def test_an_override_without_key_or_value_says_the_form(override):
    with pytest.raises(ConfigError, match=r"wanted key\.subkey=value"):
        read_config(RunConfig, None, [override])


def test_an_override_that_is_not_yaml_is_refused():
    with pytest.raises(ConfigError, match="quote it"):
        read_config(RunConfig, None, ["seed=[1, 2"])


def test_every_problem_has_a_line_of_its_own_that_names_the_key(written):
    path = written("sed: 3\ntraining: {steps: 0, precision: fp8}\nmodel: {view: zoom}\n")
    with pytest.raises(ConfigError) as caught:
        read_config(RunConfig, path)
    lines = str(caught.value).splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["model.view", "sed", "training.precision", "training.steps"]
    assert "got 0" in next(line for line in lines if line.startswith("training.steps"))


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("sed=3", "seed"),
        ("training.step=3", "steps"),
        ("model.fusion.gate.tempreature=1", "temperature"),
        ("model.decoder.nmae=x", "name"),
        ("validation.raeder=world", "reader"),
        ("model.experts=[{name: a, dytpe: float16}]", "dtype"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_one(override, suggestion):
    with pytest.raises(ConfigError, match=f"there is no such key; did you mean '{suggestion}'"):
        read_config(RunConfig, None, [override])


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("model.fusion.kind=gat", "model.fusion.kind: there is no 'gat'; choose 'gate', .*; did you mean 'gate'"),
        ("model.view=3", "model.view: there is no 3; choose 'squash', 'crop' or 'pad'$"),
        ("model.experts=a", r"model.experts: wanted a list, such as \[a\] \(got 'a'\)$"),
        ("training.betas=0.8", r"training.betas: wanted a list \(got 0.8\)$"),
        ("model.experts=[a, b, a]", r"model.experts: experts \['a'\] are requested twice; give one of .* an alias$"),
        ("model.experts=[{alias: b}]", "model.experts.0.name: is missing; give it$"),
        ("model.clip=7", r"model.clip: wanted a mapping of keys to values \(got 7\)$"),
        (
            "model.decoder.prompt={prompt}",
            r"model.decoder.prompt: wanted text \(got {'prompt': None}\); .*\"'{prompt}'\"$",
        ),
        ("model.decoder.name=5", r"model.decoder.name: wanted text \(got 5\); YAML .* quotes, .*\"'5'\"$"),
        ("model.decoder.prompt=hm", "model.decoder.prompt: prompt 'hm' must hold"),
        ("training.cache=null", r"training\.cache: wanted a path; or it should be a valid boolean \(got None\)$"),
        ("data.path=2024", r"data\.path: wanted text \(got 2024\); YAML .* quotes, .*\"'2024'\"$"),
        ("start=7", r"start: wanted text \(got 7\); YAML .* quotes, .*\"'7'\"$"),
        (
            "model.experts=[{name: a, micro_batch: 0}]",
            r"model\.experts\.0\.micro_batch: it .* than 0; or there is no 0;",
        ),
        ("model.decoder.lora.targets=q", r"model\.decoder\.lora\.targets: wanted a list, such as \[q\]; or there is "),
        (f"training.steps={'x' * 500}", r"training.steps: it should be .*x\.\.\.\)$"),
    ],
)
def test_a_value_that_does_not_fit_is_told_without_words_of_python(override, wanted):
    with pytest.raises(ConfigError, match=f"^{wanted}") as it:
        read_config(RunConfig, None, [override])
    assert len(str(it.value).splitlines()) == 1 and "Path" not in str(it.value)
    assert not {"tuple", "dictionary", "Config(", "Value error", "Input"} & set(
        str(it.value).replace("(", "( ").split()
    )


def test_a_part_of_a_model_that_does_not_fit_is_told_by_its_argument():
    with pytest.raises(ConfigError, match=r"^fusion\.kind: there is no 'gat'; .*did you mean 'gate'"):
        build(fusion="gat")
    with pytest.raises(ConfigError, match=r"^experts: experts \['a'\] are requested twice; give one of .* an alias$"):
        build(experts=["a", "a"])


def test_a_key_like_no_other_is_answered_without_a_suggestion():
    with pytest.raises(ConfigError, match=r"^zzz: there is no such key$"):
        read_config(RunConfig, None, ["zzz=1"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no configuration file .*none\.yaml"):
        read_config(RunConfig, tmp_path / "none.yaml")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, and the path of a YAML file is wanted"):
        read_config(RunConfig, tmp_path)


@pytest.mark.parametrize("content", ["seed: [1", b"\xff\xfe\x00", "a: b: c"])
def test_a_file_that_is_not_yaml_is_refused_in_one_line(written, content):
    with pytest.raises(ConfigError, match="is not YAML") as caught:
        read_config(RunConfig, written(content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["- seed\n", "3\n", "[]\n", "0\n", "false\n"])
def test_a_file_that_is_no_mapping_is_refused(written, content):
    with pytest.raises(ConfigError, match="wanted a mapping"):
        read_config(RunConfig, written(content))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("training: {steps: 3}\nseed: 1\ntraining: {batch_size: 4}\n", "gives training twice, on lines 1 and 3; put"),
        ("training:\n  steps: 3\n  warmup: 1\n  steps: 4\n", r"gives training\.steps twice, on lines 2 and 4;"),
        ("data: {path: a, 'path': b}\n", r"gives data\.path twice, on line 1;"),
        (
            "data: {mixture: [{path: a}, {path: b,\n path: c}]}\n",
            r"gives data\.mixture\.1\.path twice, on lines 1 and 2",
        ),
        ("data: {options: {columns: {id: a, id: a}}}\n", r"gives data\.options\.columns\.id twice, on line 1;"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_lines(written, content, wanted):
    with pytest.raises(ConfigError, match=rf"^[^ ]*run\.yaml {wanted}"):
        read_config(RunConfig, written(content))


def test_an_override_that_gives_a_key_twice_is_refused():
    with pytest.raises(ConfigError, match=r"override 'training={steps: 3, steps: 4}' gives steps twice, on line 1;"):
        read_config(RunConfig, None, ["training={steps: 3, steps: 4}"])


def test_keys_of_other_mappings_and_those_that_a_merge_brings_may_come_again(written):
    path = written(
        "model:\n  experts:\n  - &one {name: a, dtype: bfloat16, offload: true}\n"
        "  - {<<: *one, name: b, dtype: float16}\n  - {<<: *one, name: c}\n"
    )
    experts = read_config(RunConfig, path).model.experts
    assert [(one.name, one.dtype, one.offload) for one in experts] == [
        ("a", "bfloat16", True), ("b", "float16", True), ("c", "bfloat16", True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: &a {b: *a}\n", "no such key"),
        ("output: 2025-02-30\n", "is not YAML: day"),
        ("seed: " + "[" * 5000, "is not YAML: nested too deeply"),
        ("seed: 1\n---\nseed: 2\n", "is not YAML: expected a single document"),
        ("output: !!python/object/apply:os.getcwd []\n", "is not YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_plain_document_is_refused_in_one_sentence(written, content, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_config(RunConfig, written(content))
    assert "\n" not in str(caught.value)

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from tove_core.config import DataConfig
from tove_core.data.images import PackedImage
from tove_core.data.readers import collect, read
from tove_core.errors import ConfigError, DataError
from tove_core.hub.images import read_image


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.full((5, 7, 3), number * 40, np.uint8))


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "png")
    return buffer.getvalue()


def grey(sample) -> int:
    """Return the value that every pixel of a sample's image has."""
    pixels = read_image(sample.load())
    assert pixels.shape == (3, 5, 7) and pixels.min() == pixels.max()
    return int(pixels.max())


# --- CSV and TSV ------------------------------------------------------------------------------------------------------


def table(folder, text: str, name: str = "data.csv", **options) -> DataConfig:
    (folder / name).write_text(text, encoding="utf-8")
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encoded(number))
    return DataConfig(reader=name.rpartition(".")[2], path=folder / name, options=options)


def test_csv_with_quotes_and_empty_cells_is_read_by_column(tmp_path):
    text = '\ufeffimage,question,answer,kind,source\n0.png,"what, ""that""?",a dog,,me\n\n1.png,who?,x,person,\n'
    first, second = read(table(tmp_path, text))
    assert (first.id, first.prompt, first.targets, first.kind) == ("line 2", 'what, "that"?', ("a dog",), "")
    assert (first.meta, second.meta, second.kind) == ({"source": "me"}, {}, "person")


def test_open_clip_tables_are_read_by_their_own_column_names(tmp_path):
    text = "filepath\ttitle\n0.png\ta, b\n1.png\tc|d\n"
    columns = {"image": "filepath", "text": "title"}
    assert [s.targets for s in read(table(tmp_path, text, "data.tsv", columns=columns))] == [("a, b",), ("c|d",)]
    several = read(table(tmp_path, text, "data.csv", columns=columns, delimiter="\t", separator="|"))
    assert [s.targets for s in several] == [("a, b",), ("c", "d")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "has the columns a, b but no 'image'"),
        ("image,text\n0.png\n", "line 2 has 1 cells, but the head has 2"),
        ('image,text\n0.png,"x\n', "is not delimited text"),
        ("image,text\n,x\n", "line 2 has no 'image'"),
        ("", "has the columns nothing"),
        ("image,text,text\n0.png,x,y\n", "has the column 'text' twice"),
    ],
)
def test_broken_tables_are_refused_with_the_line(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read(table(tmp_path, text))


def test_columns_without_a_name_may_be_several_as_spreadsheets_write_them(tmp_path):
    (only,) = read(table(tmp_path, "image,text,,\n0.png,x,,\n"))
    assert (only.targets, only.meta) == (("x",), {})


def test_json_lines_are_read_by_column_names_and_misspelt_ones_are_refused(tmp_path):
    table(tmp_path, "")
    (tmp_path / "a.jsonl").write_text(json.dumps({"file": "1.png", "alt": "x", "text": "not this"}))
    columns = {"image": "file", "text": "alt"}
    (only,) = read(DataConfig(path=tmp_path / "a.jsonl", options={"columns": columns}))
    assert (only.targets, only.meta) == (("x",), {"text": "not this"})
    with pytest.raises(ConfigError, match=r"columns\.imagge: there is no such key; did you mean 'image'"):
        read(DataConfig(path=tmp_path / "a.jsonl", options={"columns": {"imagge": "file"}}))


# --- tar shards -------------------------------------------------------------------------------------------------------


def test_shards_written_by_webdataset_are_read_as_webdataset_reads_them(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(f"{tmp_path}/part-%03d.tar", maxcount=2, verbose=0) as writer:
        for number in range(5):
            said = {"json": {"kind": f"k{number % 2}"}} if number else {}
            writer.write({"__key__": f"in/{number}", "png": encoded(number), "txt": f"text {number}", "cls": 3, **said})
    samples = read(DataConfig(reader="webdataset", path=tmp_path))
    theirs = list(wds.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False))
    assert [s.id.partition("/")[2] for s in samples] == [one["__key__"] for one in theirs]
    assert [s.load() for s in samples] == [one["png"] for one in theirs]
    assert [s.targets[0].encode() for s in samples] == [one["txt"] for one in theirs]
    assert [s.kind for s in samples] == ["", "k1", "k0", "k1", "k0"]
    assert samples[2].id == "part-001/in/2" and isinstance(samples[2].image, PackedImage)


def tar(path, *members: tuple[str, bytes], mode: str = "w") -> DataConfig:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return DataConfig(reader="webdataset", path=path)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.txt", b"x")], "key a has 0 images among txt"),
        ([("a.jpg", b"x"), ("a.png", b"x")], "key a has 2 images"),
        ([("a.jpg", b"x"), ("a.JPG", b"x")], r"has a\.JPG twice"),
        ([("a.jpg", b"x"), ("a.json", b"[1]")], r"a \.json of type list"),
        ([("a.jpg", b"x"), ("a.json", b"{")], r"a \.json that is not JSON"),
        ([("a.jpg", b"x"), ("a.txt", b"\xff")], r"not UTF-8 \(byte 0\)"),
        ([("a.jpg", b"x"), ("b.jpg", b"x")], "2 of 2 samples .* have no target text"),
    ],
)
def test_broken_shards_are_refused(tmp_path, members, words):
    with pytest.raises(DataError, match=words):
        read(tar(tmp_path / "a.tar", *members))


def test_a_byte_order_mark_in_a_shard_is_no_part_of_its_texts(tmp_path):
    mark = b"\xef\xbb\xbf"
    first, second = ("a.jpg", b"x"), ("b.jpg", b"y")
    told = (first, ("a.txt", mark + b"a dog"), second, ("b.json", mark + b'{"question": "who?", "answer": "a dog"}'))
    samples = read(tar(tmp_path / "a.tar", *told))
    assert [(s.prompt, s.targets) for s in samples] == [(None, ("a dog",)), ("who?", ("a dog",))]


def test_compressed_and_truncated_shards_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a readable uncompressed tar archive"):
        read(tar(tmp_path / "a.tar", ("a.jpg", b"x"), ("a.txt", b"x"), mode="w:gz"))
    config = tar(tmp_path / "b.tar", ("a.jpg", b"x" * 2000), ("a.txt", b"y" * 2000))
    content = config.path.read_bytes()
    for size, words in ((2560, "it is truncated"), (3000, "it is truncated"), (4000, "not a readable")):
        config.path.write_bytes(content[:size])
        with pytest.raises(DataError, match=words):
            read(config)


# --- Hugging Face datasets --------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["cat", "dog"]),
            "note": datasets.Value("string"),
        }
    )
    rows = {
        "image": [picture(n) for n in range(3)],
        "question": ["what?"] * 3,
        "answer": [1, 0, 1],
        "note": ["x", None, "y"],
    }
    return datasets, datasets.Dataset.from_dict(rows, features=features)


def told(samples) -> list[tuple[int, tuple[str, ...]]]:
    return [(grey(sample), sample.targets) for sample in samples]


ROWS = [(0, ("dog",)), (40, ("cat",)), (80, ("dog",))]


def test_saved_tables_and_their_splits_are_read_with_labels_as_words(hub, tmp_path):
    datasets, made = hub
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"val": made.select([2]), "train": made}).save_to_disk(str(tmp_path / "two"))
    samples = read(DataConfig(reader="datasets", path=tmp_path / "one"))
    assert told(samples) == ROWS
    assert [s.id for s in samples] == ["row 0", "row 1", "row 2"]
    assert [s.meta for s in samples] == [{"note": "x"}, {}, {"note": "y"}]
    assert len({s.image_key for s in samples}) == 3
    assert told(read(DataConfig(reader="datasets", path=tmp_path / "two", split="val"))) == ROWS[2:]
    with pytest.raises(DataError, match="cannot be read by datasets"):
        read(DataConfig(reader="datasets", path=tmp_path / "two", split="test"))


@pytest.mark.parametrize("kept", [[0, 2], [0]])
def test_labels_without_a_name_are_refused_and_listed_with_their_row(hub, tmp_path, kept):
    datasets, made = hub
    secret = made.select([0, 1, 2]).to_dict() | {"answer": [1 if n in kept else -1 for n in range(3)]}
    datasets.Dataset.from_dict(secret, features=made.features).to_parquet(str(tmp_path / "a.parquet"))
    config = DataConfig(reader="datasets", path=tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1 has the label -1 in column 'answer', which has no name"):
        read(config)
    (part,) = collect(config, malformed=True)
    assert told(part.samples) == [ROWS[n] for n in kept]
    assert len(part.malformed) == 3 - len(kept)


def test_parquet_files_are_read_and_images_stay_on_disk_until_wanted(hub, tmp_path):
    _, made = hub
    made.to_parquet(str(tmp_path / "a.parquet"))
    samples = read(DataConfig(reader="datasets", path=tmp_path / "a.parquet"))
    assert told(samples) == ROWS
    assert isinstance(samples[0].load(), bytes)


def test_folders_of_images_are_read_with_their_metadata(hub, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        picture(number).save(folder / f"{number}.png")
    lines = [json.dumps({"file_name": f"{n}.png", "text": f"grey {n}"}) for n in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    samples = read(DataConfig(reader="datasets", path=folder))
    assert sorted(told(samples)) == [(0, ("grey 0",)), (40, ("grey 1",))]


def test_further_columns_of_images_are_neither_decoded_nor_kept(hub, tmp_path, monkeypatch):
    datasets, made = hub
    of = {**made.features, "mask": datasets.Image(), "views": [datasets.Image()]}
    cells = made.cast_column("image", datasets.Image(decode=False)).to_dict()
    cells |= {"mask": cells["image"], "views": [[cell] for cell in cells["image"]]}
    datasets.Dataset.from_dict(cells, features=datasets.Features(of)).to_parquet(str(tmp_path / "a.parquet"))
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("no need"))
    samples = read(DataConfig(reader="datasets", path=tmp_path / "a.parquet"))
    made.cast_column("image", datasets.Image(decode=False)).save_to_disk(str(tmp_path / "encoded"))
    assert told(read(DataConfig(reader="datasets", path=tmp_path / "encoded"))) == ROWS
    assert told(samples) == ROWS and [s.meta for s in samples] == [{"note": "x"}, {}, {"note": "y"}]
    with pytest.raises(DataError, match=r"column 'views' of .* is of the type .*, but one image per row is wanted"):
        read(DataConfig(reader="datasets", path=tmp_path / "a.parquet", options={"columns": {"image": "views"}}))


def test_a_folder_of_images_is_refused_beside_a_column_of_images(hub, tmp_path):
    _, made = hub
    made.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match=r"data\.images was given, but column 'image' .* leave it out"):
        read(DataConfig(reader="datasets", path=tmp_path / "one", images=tmp_path))


def test_a_column_that_is_not_there_is_refused_with_those_that_are(hub, tmp_path):
    _, made = hub
    made.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match="has the columns image, question, answer, note but no 'photo'"):
        read(DataConfig(reader="datasets", path=tmp_path / "one", options={"columns": {"image": "photo"}}))
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="an extension that says nothing"):
        read(DataConfig(reader="datasets", path=tmp_path / "a.bin"))

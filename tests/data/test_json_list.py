"""Lists of JSON objects read one at a time: the same as reading them whole, faults included."""

import json
import tracemalloc

import pytest

from tove_core.data.json_list import read_members, read_records
from tove_core.errors import DataError

RECORDS = [{"a": 1}, {"b": 'ü \u2028 , ] [ " \\'}, {}, {"c": [1, {"d": None}], "e": -1.5e3}]


def put(folder, text, name="x.json"):
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("indent", [None, 1, "\t"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("around", ["", " \r\n\t", "\ufeff"])
def test_a_list_is_read_as_json_reads_it(tmp_path, indent, ascii_only, around):
    path = put(tmp_path, around + json.dumps(RECORDS, indent=indent, ensure_ascii=ascii_only) + around.strip("\ufeff"))
    assert list(read_records(path)) == [(f"{path} item {n}", record) for n, record in enumerate(RECORDS)]


@pytest.mark.parametrize("text", ["[]", " [ \n] "])
def test_an_empty_list_has_no_items(tmp_path, text):
    assert list(read_records(put(tmp_path, text))) == []


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_json_lines_are_read_whatever_the_file_is_called(tmp_path, name):
    path = put(tmp_path, "\n".join(map(json.dumps, RECORDS)), name)
    assert list(read_records(path)) == [(f"{path} line {n}", record) for n, record in enumerate(RECORDS, start=1)]


def test_one_object_is_a_list_of_one_over_how_many_lines_it_may_go(tmp_path):
    path = put(tmp_path, json.dumps(RECORDS[3], indent=2))
    assert list(read_records(path)) == [(f"{path} item 0", RECORDS[3])]


@pytest.mark.parametrize(
    "text",
    ['[{"a": 1}', '[{"a": 1},]', '[{"a": 1} {"b": 2}]', '[{"a": 1}] [', '[{"a": 1},\n{"b": }]', "[", '[{"a"\n:1, 2}]'],
)
def test_faults_are_told_with_the_line_that_json_tells(tmp_path, text):
    path = put(tmp_path, "\n" + text)
    with pytest.raises(json.JSONDecodeError) as told:
        json.loads("\n" + text)
    with pytest.raises(DataError, match=rf"x\.json is not JSON \(line {told.value.lineno}: "):
        list(read_records(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1}, 5]', "item 1 is int, but an object is wanted"),
        ("5", "holds int, but a list of objects is wanted"),
        ('"text"', "holds str, but a list of objects is wanted"),
        ('{"a": 1}\n[2]', "line 2 holds list"),
    ],
)
def test_what_is_no_list_of_objects_is_refused(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        list(read_records(put(tmp_path, text)))


def test_no_more_than_the_text_and_one_item_is_in_memory(tmp_path):
    path = put(tmp_path, json.dumps([{"turns": [{"from": "human", "value": str(n)}]} for n in range(20_000)]))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2.5 * size  # bytes and text; decoded it is more than five times
    finally:
        tracemalloc.stop()


OBJECT = {"info": {"a": [1]}, "images": [{"b": "] } ,"}, 5], "licence": None, "empty": [], "last": [[], {}]}


def told(path, lists=(), optional=()):
    """Put together again what `read_members` gives."""
    found = {}
    for key, number, value in read_members(path, lists, optional):
        if key in lists:
            found.setdefault(key, []).append(value)
            assert number == len(found[key]) - 1
        else:
            assert number == 0
            found[key] = value
    return found


@pytest.mark.parametrize("indent", [None, 1, "\t"])
@pytest.mark.parametrize("lists", [(), ("images",), ("last", "images", "empty")])
def test_the_members_of_an_object_are_read_as_json_reads_them(tmp_path, indent, lists):
    path = put(tmp_path, "\ufeff " + json.dumps(OBJECT, indent=indent) + "\n")
    assert told(path, lists) == {key: value for key, value in OBJECT.items() if key not in lists or value}
    assert told(put(tmp_path, "{ }")) == {}


@pytest.mark.parametrize(
    "text",
    ['{"a": [1}', '{"a": [1],}', '{"a" [1]}', '{"a": [1]} {}', '{"a": [1]', "{5: 6}", '{"a": [1] "b": 2}', '{"a": \n}'],
)
def test_faults_in_objects_are_told_with_the_line_that_json_tells(tmp_path, text):
    path = put(tmp_path, "\n" + text)
    with pytest.raises(json.JSONDecodeError) as seen:
        json.loads("\n" + text)
    for lists in ((), ("a",)):
        with pytest.raises(DataError, match=rf"x\.json is not JSON \(line {seen.value.lineno}: "):
            told(path, lists)


def test_lists_must_be_there_unless_they_are_optional(tmp_path):
    path = put(tmp_path, '{"a": [1], "b": 5}')
    assert told(path, ("a", "c"), ("c",)) == {"a": [1], "b": 5}
    with pytest.raises(DataError, match=r"has no 'c' \(it has a, b\)"):
        told(path, ("a", "c"))
    with pytest.raises(DataError, match=r"has 'b' of type int, but a list is wanted"):
        told(path, ("b",))
    with pytest.raises(DataError, match="holds str, but an object is wanted"):
        told(put(tmp_path, '"text"'))


def test_no_more_than_the_text_and_one_item_of_a_list_below_a_key_is_in_memory(tmp_path):
    items = [{"answers": [{"answer": str(n)}]} for n in range(20_000)]
    path = put(tmp_path, json.dumps({"annotations": items}))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_members(path, ["annotations"])) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2.5 * size  # as above
    finally:
        tracemalloc.stop()

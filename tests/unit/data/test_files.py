"""From bytes to rows with their lines, in every file format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.data import files, json_scanner
from medrl.data.files import read_rows
from medrl.data.rows import BadRow
from medrl.errors import DataError

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
OBJECTS = st.lists(st.dictionaries(st.text(min_size=1), VALUES, max_size=3), min_size=1, max_size=6)


def rows(path: Path) -> list[tuple[int, object]]:
    return [(line, value.why if isinstance(value, BadRow) else value) for _, line, value in read_rows(path)]


def test_lines_keep_their_numbers_and_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf\n{"a": 1}\n\n{"a": "\xe2\x80\xa8"}')  # U+2028 is no line end
    assert rows(tmp_path / "a.jsonl") == [(2, {"a": 1}), (4, {"a": "\u2028"})]
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny, ""z"""\r\n\r\n2,\r\n')
    assert rows(tmp_path / "a.csv") == [(2, {"a": "1", "b": 'x\r\ny, "z"'}), (5, {"a": "2", "b": ""})]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\n\xe4\xb8\x80\r\ntwo\n\n \n\nthree")
    assert rows(tmp_path / "a.txt") == [(2, {"text": "一\ntwo"}), (7, {"text": "three"})]


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
@settings(max_examples=15)
@given(objects=OBJECTS, indent=st.sampled_from([None, 1]))
def test_an_array_is_read_piece_by_piece(tmp_path_factory, chunk, objects, indent):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(objects, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scanner, "CHUNK", chunk)
        assert [value for _, value in rows(path)] == objects


def test_rows_of_an_array_have_the_lines_they_begin_on(tmp_path):
    (tmp_path / "a.json").write_text('\n[{"a": 1},\n {"a":\n 2}, 12\n,\n{"a": "x\\ny"}]\n')
    bad = "a row must be a JSON object, got a number"
    assert rows(tmp_path / "a.json") == [(2, {"a": 1}), (3, {"a": 2}), (4, bad), (6, {"a": "x\ny"})]


def test_a_json_file_may_hold_an_object_on_each_line(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert rows(tmp_path / "a.json") == [(1, {"a": 1}), (2, {"a": 2})]


@given(table=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_csv_as_the_standard_library_writes_it(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "b"), *table])
    assert [value for _, value in rows(path)] == [{"prompt": a, "b": b} for a, b in table]


def test_parquet_rows_count_from_one_and_a_null_is_a_key_that_is_not_there(tmp_path):
    messages = [{"role": "user", "content": "x"}]
    table = pa.table({"messages": [messages, None], "n": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [(1, {"messages": messages, "n": 1}), (2, {"n": 2})]
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match="b.parquet is no Parquet file"):
        rows(tmp_path / "b.parquet")


DAMAGE = [  # what hides all that follows
    ("a.json", b'[{"a": 1},\n{"a": }]', r"a\.json:2: not valid JSON \(Expecting value\)"),
    ("a.json", b'[{"a": 1},\n{"a": 2', r"a\.json:2: not valid JSON"),
    ("a.json", b'[{"a": 1}\n{"a": 2}]', r"a\.json:2: not valid JSON \(`]` expected\)"),
    ("a.json", b'[{"a": 1}]\n\n[]', r"a\.json:3: not valid JSON \(text after the array\)"),
    ("a.json", b"[" * 100_000, r"a\.json:1: not valid JSON \(nested too deep\)"),
    ("a.json", b'[{"a": "\xff"}]', r"a\.json:1: not valid UTF-8"),
    ("a.csv", b"a,a\n1,2\n", r"a\.csv:1: column names are missing or repeated"),
    ("a.csv", b"a,\n1,2\n", r"a\.csv:1: column names are missing or repeated"),
    ("a.parquet", b"PAR1", r"a\.parquet is no Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "why"), DAMAGE)
def test_damage_that_hides_the_rest_is_an_error_with_its_line(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=why):
        rows(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), [
    ("a.jsonl", b'{"a": "%s"}'), ("a.json", b'[{"a": "%s"}]'), ("a.txt", b"x\n%s"), ("a.csv", b"a\n%s\n")])
def test_no_row_is_read_into_memory_without_limit(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(json_scanner, "CHUNK", 100)
    (tmp_path / name).write_bytes(content % (b"x" * 900))
    assert len(rows(tmp_path / name)) == 1
    (tmp_path / name).write_bytes(content % (b"x" * 5000))
    with pytest.raises(DataError, match="too large|more than 0 Mi characters"):
        rows(tmp_path / name)


def test_a_hub_dataset_from_the_local_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "clinic___talks/zh/0.0.0/abc"
    folder.mkdir(parents=True)
    table = pa.table({"prompt": ["a", None]})
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "talks-train.arrow")) as writer:
        writer.write_table(table)
        writer.finalize()
    info = {
        "dataset_name": "talks", "config_name": "zh", "version": "0.0.0",
        "features": {"prompt": {"dtype": "string", "_type": "Value"}},
        "splits": {"train": {"name": "train", "num_bytes": 1, "num_examples": 2, "dataset_name": "talks"}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for name in ("clinic/talks", "clinic/talks/zh", "clinic/talks/zh:train"):
        assert rows(Path(name)) == [(1, {"prompt": "a"}), (2, {})]
    for name in ("clinic/other", "clinic/talks:test", "clinic/talks/en"):
        with pytest.raises(DataError, match=f"no data at {name}") as caught:
            rows(Path(name))
        assert caught.value.got and caught.value.remedy

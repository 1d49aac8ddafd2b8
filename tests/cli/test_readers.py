"""Text in every format, as `adept tokenize` reads it: Parquet and Arrow written by pyarrow, data sets of Hugging Face, streams, bad input."""

import gzip
import json
import os
import random
import shutil
import subprocess
import threading

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import text_models
import transformers
from conftest import BUILD, ROOT, run_program, says
from test_tokenize import MEGABYTE, documents, error_of, peak_bytes

TEXTS = ["the river and the house", "a doctor", "the children of the house"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return text_models.save("llama_tied", tmp_path_factory.mktemp("readers") / "base")


def tokenize(model, data, *arguments, **options):
    return run_program("adept", "tokenize", "--model", model, "--data", data, *arguments, check=False, **options)


def ids_of(texts):
    return [text_models.encode(text) for text in texts]


def read(model, data, *arguments, **options):
    process = tokenize(model, data, *arguments, **options)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def write_parquet(path, table, **options):
    pq.write_table(table, path, **options)
    return path


def write_stream(path, table, batch_rows=None, **options):
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


def write_ipc_file(path, table, batch_rows=None, **options):
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


WRITERS = {"parquet": write_parquet, "stream.arrow": write_stream, "file.arrow": write_ipc_file}


def place(form, group, row):
    return f"{'row group' if form == 'parquet' else 'record batch'} {group}, row {row}"


def in_groups(form, path, table, rows):
    return write_parquet(path, table, row_group_size=rows) if form == "parquet" else WRITERS[form](path, table, rows)


# ------------------------------------------------------------------------------------------------------- Parquet and Arrow


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()], ids=str)
def test_strings_of_every_type_are_read(kind, form, base, tmp_path):
    if form == "parquet" and kind == pa.string_view():
        pytest.skip("pyarrow may write it as a string")
    texts = pa.array(TEXTS * 100).cast(kind) if kind == pa.string_view() else pa.array(TEXTS * 100, kind)
    table = pa.table({"id": list(range(300)), "text": texts})
    assert read(base, in_groups(form, tmp_path / f"x.{form}", table, 70)) == ids_of(TEXTS * 100)


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_every_compression_of_parquet_is_read(compression, base, tmp_path):
    path = write_parquet(tmp_path / "x.parquet", pa.table({"text": TEXTS}), compression=compression, data_page_version="2.0")
    assert read(base, path) == ids_of(TEXTS)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_arrow_is_read(compression, base, tmp_path):
    table = pa.table({"text": TEXTS})
    assert read(base, write_stream(tmp_path / "x.arrow", table, compression=compression)) == ids_of(TEXTS)
    pyarrow.feather.write_feather(table, tmp_path / "x.feather", compression=compression)
    assert read(base, tmp_path / "x.feather") == ids_of(TEXTS)


@pytest.mark.parametrize("form", WRITERS)
def test_nested_fields_templates_and_questions_are_read(form, base, tmp_path):
    meta = [{"text": text, "n": i, "deep": {"er": "a doctor"}} for i, text in enumerate(TEXTS)]
    path = WRITERS[form](tmp_path / f"x.{form}", pa.table({"meta": meta, "a.b": TEXTS, "id": [1, 2, 3]}))
    assert read(base, path, "--text-field", "meta.text") == ids_of(TEXTS)
    assert read(base, path, "--text-field", "a.b") == ids_of(TEXTS)
    filled = [f"a doctor {text}\n{{the}}" for text in TEXTS]
    assert read(base, path, "--template", "{meta.deep.er} {meta.text}\\n{{the}}") == ids_of(filled)
    error = error_of(tokenize(base, path, "--text-field", "meta.n"))
    assert f"{path}: {place(form, 0, 0)}: field not a string: found int64" in error
    error = error_of(tokenize(base, path, "--text-field", "meta.gone"))
    assert 'missing field: found the columns "meta", "a.b", "id"' in error and "--text-field" in error
    questions = pa.table({"question": ["the river"], "choices": [["the house", "a doctor"]], "answer": [1]})
    path = WRITERS[form](tmp_path / f"q.{form}", questions)
    assert read(base, path) == ids_of(["the river\nA. the house\nB. a doctor\nAnswer: B"])


@pytest.mark.parametrize("form", WRITERS)
def test_a_bad_row_is_an_error_with_its_place_or_skipped(form, base, tmp_path):
    struct = pa.struct({"text": pa.string()})
    for field, values, reason in [
        ("text", pa.array(["the", "a", None, "river"]), "null field"),
        ("text", pa.array(["the", "a", b"\xff", "river"], pa.binary()).view(pa.string()), "invalid UTF-8"),
        ("meta.text", pa.array([{"text": "the"}, {"text": "a"}, None, {"text": "river"}], struct), "null field"),
        ("text", pa.array(["the", "a", None, "river"], pa.dictionary(pa.int8(), pa.string())), "null field"),
    ]:
        path = in_groups(form, tmp_path / f"x.{form}", pa.table({field.partition(".")[0]: values}), 2)
        assert f"{path}: {place(form, 1, 0)}: {reason}: found" in error_of(tokenize(base, path, "--text-field", field))
        process = tokenize(base, path, "--text-field", field, "--on-bad-record", "skip")
        assert f"skipped 1 (1 {reason})" in process.stderr
        assert [json.loads(line) for line in process.stdout.splitlines()] == ids_of(["the", "a", "river"])


@pytest.mark.parametrize("form", WRITERS)
def test_other_types_are_no_text(form, base, tmp_path):
    for values in ([1, 2], [1.5, 2.5], [True, False], [["a"], ["b"]], [{"a": "b"}, {"a": "c"}], pa.array([b"a", b"b"])):
        path = WRITERS[form](tmp_path / f"x.{form}", pa.table({"text": values}))
        assert f"{place(form, 0, 0)}: field not a string" in error_of(tokenize(base, path))
    path = WRITERS[form](tmp_path / f"x.{form}", pa.table({"text": pa.nulls(2)}))
    assert "null field" in error_of(tokenize(base, path))


@pytest.mark.parametrize("form", WRITERS)
def test_empty_tables_have_no_documents(form, base, tmp_path):
    assert read(base, WRITERS[form](tmp_path / f"x.{form}", pa.table({"text": pa.array([], pa.string())}))) == []


@pytest.mark.parametrize("form", WRITERS)
def test_a_cut_file_is_an_error_wherever_it_is_cut(form, base, tmp_path):
    path = in_groups(form, tmp_path / f"x.{form}", pa.table({"id": [1, 2, 3], "text": TEXTS}), 2)
    whole = path.read_bytes()
    for size in {0, 4, len(whole) // 2, len(whole) - 8, len(whole) - 1}:
        path.write_bytes(whole[:size])
        error = error_of(tokenize(base, path, "--on-bad-record", "skip"))
        assert f"{path}: cannot be read as" in error and "cut short or damaged" in error, size


@pytest.mark.parametrize("form", WRITERS)
def test_damaged_bytes_never_crash(form, base, tmp_path):
    table = pa.table({"text": pa.array(TEXTS * 3, pa.dictionary(pa.int8(), pa.string())), "more": TEXTS * 3})
    path = in_groups(form, tmp_path / f"x.{form}", table, 4)
    whole = path.read_bytes()
    for i in random.Random(form).sample(range(len(whole)), int(os.environ.get("ADEPT_DAMAGED_BYTES", 12))):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        process = tokenize(base, path, "--template", "{text} {more}")
        assert process.returncode in (0, 1), (i, process.returncode, process.stderr)


def test_the_order_does_not_depend_on_threads(base, tmp_path):
    table = pa.table({"text": [f"the {i % 7} river {'and ' * (i % 50)}" for i in range(5000)]})
    path = write_parquet(tmp_path / "x.parquet", table, row_group_size=999)
    text_models.write_jsonl(tmp_path / "x.jsonl", table["text"].to_pylist())
    results = []
    for data, threads in ((path, 1), (path, 4), (tmp_path / "x.jsonl", 2)):
        out = tmp_path / "out.json"
        run_program("adept", "eval", "--model", base, "--data", f"x={data}", "--threads", threads, "--max-tokens", 512, "--out", out)
        results.append(json.loads(out.read_text())["datasets"]["x"]["text"])
    assert results[0] == results[1] == results[2]
    assert read(base, path) == read(base, tmp_path / "x.jsonl")


def test_a_row_group_takes_no_more_memory_than_its_slices(base, tmp_path):
    line = documents(MEGABYTE // 4)["words"]
    command = ("tokenize", "--model", base, "--data")
    floor = peak_bytes(*command, write_parquet(tmp_path / "small.parquet", pa.table({"text": ["the river"]})))
    rows = 400  # 100 MB in one row group, and as many bytes in a column that is not read
    for name, texts in {
        "different": [f"{i} {line}" for i in range(rows)],
        "same": [line] * rows,
    }.items():
        table = pa.table({"text": texts, "other": texts})
        # Pages are decompressed as a whole; by default pyarrow writes at least 1,024 rows into one.
        path = write_parquet(
            tmp_path / f"{name}.parquet", table, row_group_size=rows, use_dictionary=name == "same", write_batch_size=4
        )
        taken = peak_bytes(*command, path) - floor
        assert taken <= 64 * MEGABYTE, f"{name}: {taken / MEGABYTE:.0f} MB"


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_long_file_takes_the_memory_of_one_record(form, base, tmp_path):
    line = documents(MEGABYTE // 4)["words"]
    path = tmp_path / f"x.{form}"
    if form == "csv":
        path.write_text("text,other\n" + f'"{line}",{line}\n' * 200)
    else:
        path.write_text(json.dumps([{"text": line, "other": [line]}] * 200))
    (tmp_path / f"small.{form}").write_text("text\nthe\n" if form == "csv" else '[{"text": "the"}]')
    floor = peak_bytes("tokenize", "--model", base, "--data", tmp_path / f"small.{form}")
    taken = peak_bytes("tokenize", "--model", base, "--data", path) - floor
    assert taken <= 24 * MEGABYTE, f"{taken / MEGABYTE:.0f} MB"


def test_a_whole_file_beyond_the_limit_is_an_error_or_skipped_and_takes_no_memory(base, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("the")
    floor = peak_bytes("tokenize", "--model", base, "--data", tmp_path / "texts")
    with open(tmp_path / "texts" / "b.txt", "w") as file:
        for _ in range(257):
            file.write("a\n" * (MEGABYTE // 2))
    error = error_of(tokenize(base, tmp_path / "texts"))
    assert f"b.txt: file too long: found a file of more than {256 * MEGABYTE} bytes" in error and "--txt-record" in error, error
    taken = peak_bytes("tokenize", "--model", base, "--data", tmp_path / "texts", "--on-bad-record", "skip") - floor
    assert taken <= 280 * MEGABYTE, f"{taken / MEGABYTE:.0f} MB"
    assert read(base, tmp_path / "texts", "--on-bad-record", "skip") == ids_of(["the"])


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "json"])
def test_a_record_beyond_the_limit_is_an_error_or_skipped(form, base, tmp_path):
    size = 257 * MEGABYTE
    path = tmp_path / f"x.{form}"
    around = {"txt": ("the\n", "", "\nriver"), "jsonl": ('{"text":"the"}\n', '{"text":"', '"}\n{"text":"river"}'),
              "csv": ("text\nthe\n", '"', '"\nriver\n'), "json": ('[{"text":"the"},', '{"text":"', '"},{"text":"river"}]')}  # fmt: skip
    before, start, end = around[form]
    with open(path, "w") as file:
        file.write(before + start)
        for _ in range(size // MEGABYTE):
            file.write("a" * MEGABYTE)
        file.write(end)
    error = error_of(tokenize(base, path, "--txt-record", "line")) if form == "txt" else error_of(tokenize(base, path))
    assert "too long: found " in error and f"of more than {256 * MEGABYTE} bytes" in error and f"{path}:" in error
    extra = ("--txt-record", "line") if form == "txt" else ()
    assert read(base, path, *extra, "--on-bad-record", "skip") == ids_of(["the", "river"])


# --------------------------------------------------------------------------------------------------------- data set folders


def save_as_hub(folder, form):
    (folder / "data").mkdir(parents=True)
    for split, texts in (("train", TEXTS), ("test", ["the"])):
        for shard, part in enumerate((texts[:2], texts[2:])):
            path = folder / "data" / f"{split}-{shard:05}-of-00002.{form}"
            (write_parquet if form == "parquet" else write_stream)(path, pa.table({"text": pa.array(part, pa.string())}))
    (folder / "README.md").write_text("# A data set")


def save_as_datasets(folder):
    """As DatasetDict.save_to_disk of datasets."""
    for split, texts in (("train", TEXTS), ("test", ["the"])):
        (folder / split).mkdir(parents=True)
        write_stream(folder / split / "data-00000-of-00001.arrow", pa.table({"text": texts}))
        (folder / split / "state.json").write_text(json.dumps({"_split": split, "_data_files": []}))
        (folder / split / "dataset_info.json").write_text(json.dumps({"features": {}}))
    write_stream(folder / "train" / "cache-1f2e3d.arrow", pa.table({"text": ["no"]}))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))


@pytest.mark.parametrize("layout", ["parquet", "arrow", "datasets"])
def test_the_split_of_a_data_set_folder_is_read(layout, base, tmp_path):
    folder = tmp_path / "set"
    if layout == "datasets":
        save_as_datasets(folder)
    else:
        save_as_hub(folder, layout)
    assert read(base, folder, "--split", "train") == ids_of(TEXTS)
    assert read(base, folder, "--split", "test") == ids_of(["the"])
    assert "has several splits: test, train. Choose one with split" in error_of(tokenize(base, folder), 2)
    assert "has no split dev; it has test, train" in error_of(tokenize(base, folder, "--split", "dev"), 2)
    if layout == "datasets":
        assert read(base, folder / "train") == ids_of(TEXTS), "the folder of one split"


def test_a_glob_of_several_splits_and_a_missing_shard_are_told(base, tmp_path):
    for name in ("train-00000-of-00002", "test-00000-of-00001"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": TEXTS[0]}) + "\n")
    process = tokenize(base, tmp_path / "*.jsonl")
    assert process.returncode == 0 and process.stderr.count("all of its splits are read: test, train") == 1
    assert process.stderr.count("1 of 2 shards are missing, the first is train-00001-of-00002") == 1


def test_a_source_of_which_nothing_is_read_is_told(base, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"content": "the"}\n' * 3)
    process = tokenize(base, tmp_path / "other.jsonl", "--on-bad-record", "skip")
    assert process.returncode == 0 and "no document was read; all 3 records were skipped" in process.stderr
    assert "no document was read" not in tokenize(base, tmp_path / "other.jsonl", "--text-field", "content").stderr


def test_a_folder_that_datasets_saved_is_read(base, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk(tmp_path / "set")
    assert read(base, tmp_path / "set") == ids_of(TEXTS)


# ------------------------------------------------------------------------------------------------------------------- chat


CHAT = "{{ bos_token }}{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}the{% endif %}"


def test_conversations_are_what_transformers_makes_of_them(base, tmp_path):
    model = shutil.copytree(base, tmp_path / "model")
    (model / "chat_template.jinja").write_text(CHAT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": "a doctor"}] for text in TEXTS]
    expected = [tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in chats]
    text_models.write_jsonl(tmp_path / "x.jsonl", ["no"])
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    assert read(model, tmp_path / "x.jsonl", "--messages-field", "messages") == expected
    for form, write in WRITERS.items():
        path = write(tmp_path / f"x.{form}", pa.table({"messages": chats}))
        assert read(model, path, "--messages-field", "messages") == expected
    error = error_of(tokenize(base, tmp_path / "x.jsonl", "--messages-field", "messages"))
    assert "has no chat template" in error and "instead of messages_field" in error


# ------------------------------------------------------------------------------------------------------- streams and lists


def compressed(data, compression):
    if compression == "gzip":
        return gzip.compress(data)
    if compression == "zstd":
        return subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout
    return data


@pytest.mark.parametrize("compression", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_is_text_or_json_lines_by_its_first_bytes(name, compression, base):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    for data, texts in ((lines, TEXTS), (b"\xef\xbb\xbf" + lines, TEXTS), ("\n".join(TEXTS).encode(), ["\n".join(TEXTS)])):
        process = subprocess.run(
            [BUILD / "adept", "tokenize", "--model", base, "--data", name], input=compressed(data, compression), capture_output=True
        )
        assert process.returncode == 0, process.stderr
        assert [json.loads(line) for line in process.stdout.splitlines()] == ids_of(texts)


def test_a_format_that_is_set_applies_to_standard_input(base, tmp_path):
    path = write_parquet(tmp_path / "x.parquet", pa.table({"text": TEXTS}))
    for arguments, data in ((("--format", "csv"), b"text\nthe river\n"), ((), path.read_bytes())):
        process = subprocess.run(
            [BUILD / "adept", "tokenize", "--model", base, "--data", "-", *arguments], input=data, capture_output=True
        )
        assert process.returncode == 0, process.stderr
        assert len(process.stdout.splitlines()) == (1 if arguments else 3)


def test_tables_and_arrays_on_standard_input_are_found_by_their_first_bytes(base, tmp_path):
    table = pa.table({"content": TEXTS})
    inputs = [WRITERS[form](tmp_path / f"x.{form}", table).read_bytes() for form in WRITERS]
    inputs += [json.dumps([{"content": text} for text in TEXTS], indent=1).encode()]
    for data in inputs:
        process = subprocess.run(
            [BUILD / "adept", "tokenize", "--model", base, "--data", "-", "--text-field", "content"], input=data, capture_output=True
        )
        assert process.returncode == 0, process.stderr
        assert [json.loads(line) for line in process.stdout.splitlines()] == ids_of(TEXTS)


def test_a_field_of_plain_text_on_standard_input_is_an_error(base):
    process = subprocess.run(
        [BUILD / "adept", "tokenize", "--model", base, "--data", "-", "--text-field", "q"], input="q\nthe\n", capture_output=True, text=True
    )
    assert process.returncode == 2 and "text_field: found fields, but /dev/stdin is a text file by its first bytes" in process.stderr
    assert "--format csv" in process.stderr


def test_a_feather_file_of_version_1_is_named(base, tmp_path):
    (tmp_path / "x.feather").write_bytes(b"FEA1" + bytes(64) + b"FEA1")
    error = error_of(tokenize(base, tmp_path / "x.feather"))
    assert "x.feather: is a Feather file of version 1" in error and "damaged" not in error
    pa.feather.write_feather(pa.table({"text": TEXTS}), tmp_path / "x.feather")
    assert read(base, tmp_path / "x.feather") == ids_of(TEXTS)


@pytest.mark.parametrize("form", WRITERS)
def test_a_template_writes_numbers_and_booleans_of_every_type(form, base, tmp_path):
    columns = {
        "int8": pa.array([-1], pa.int8()), "uint64": pa.array([2**40], pa.uint64()), "float": pa.array([0.1], pa.float32()),
        "double": pa.array([2.0]), "bool": pa.array([True]), "nan": pa.array([float("nan")]), "date": pa.array([1], pa.date32()),
    }  # fmt: skip
    path = WRITERS[form](tmp_path / f"x.{form}", pa.table(columns))
    assert read(base, path, "--template", "{int8} {uint64} {float} {double} {bool}") == ids_of([f"-1 {2**40} 0.1 2.0 true"])
    for field, found in (("nan", "a number that is not finite"), ("date", "date32[day]")):
        error = error_of(tokenize(base, path, "--template", f"{{{field}}}"))
        assert f"field not a string: found {found}; expected a string, number or boolean" in error


def test_a_list_names_the_files(base, tmp_path):
    write_parquet(tmp_path / "b.parquet", pa.table({"text": TEXTS[:1]}))
    (tmp_path / "a.md").write_text(TEXTS[1])
    (tmp_path / "files.txt").write_text("b.parquet\na.md\n")
    assert read(base, "@files.txt", cwd=tmp_path) == ids_of(TEXTS[:2])


def test_a_pipe_or_a_device_is_refused_with_advice(base, tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", "/dev/zero"):
        error = error_of(tokenize(base, path), 2)
        assert f"{path}: is a pipe or device" in error and "standard input" in error
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.jsonl").write_text('{"text": "the"}\n'))
    writer.start()
    with open(tmp_path / "pipe.jsonl") as pipe:
        assert read(base, "-", stdin=pipe) == ids_of(["the"])
    writer.join()


# --------------------------------------------------------------------------------------------------------------- options


def test_options_that_contradict_each_other_are_named(base, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "the"}\n')
    for arguments, problem in [
        (("--text-field", "a", "--template", "{a}"), "--template: found together with text_field"),
        (("--template", "{a"), "--template: found a single {"),
        (("--format", "parquet", "--txt-record", "line"), "--txt-record: found together with format: parquet"),
        (("--format", "text", "--template", "{a}"), "--template: found together with format: text"),
        (("--format", "doc"), 'found "doc"; expected one of text, jsonl'),
    ]:
        assert problem in error_of(tokenize(base, tmp_path / "x.jsonl", *arguments), 2)


def test_keys_that_contradict_each_other_are_named_with_their_place(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "model: base\noutput_dir: out\ndata:\n  train:\n    - name: a\n      path: x.jsonl\n      text_field: a\n"
        '      template: "{a}\\n{b}"\n    - {name: b, path: x.jsonl, format: parquet, txt_record: line}\n'
    )
    error = error_of(run_program("adept", "config", "x.yaml", check=False, cwd=tmp_path), 2)
    assert says(error, "x.yaml:8: data.train.0.template: found ...text_field")
    assert says(error, "x.yaml:9: data.train.1.txt_record: found ...format: parquet")


def test_an_installed_program_finds_the_library(base, tmp_path):
    subprocess.run(["cmake", "--install", BUILD, "--prefix", tmp_path / "installed"], check=True, capture_output=True)
    path = write_parquet(tmp_path / "x.parquet", pa.table({"text": TEXTS}))
    command = [tmp_path / "installed" / "bin" / "adept", "tokenize", "--model", base, "--data", path]
    assert len(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()) == 3


def test_a_file_whose_library_is_missing_says_what_to_install(base, tmp_path):
    """As where the Python of torch has no pyarrow."""
    program = shutil.copy(BUILD / "adept", tmp_path / "adept")
    path = write_parquet(tmp_path / "x.parquet", pa.table({"text": TEXTS}))
    process = subprocess.run([program, "tokenize", "--model", base, "--data", path], capture_output=True, text=True)
    error = error_of(process)
    assert "x.parquet: " in error and "libadept_arrow.so" in error and "pip install pyarrow" in error


def test_the_docs_list_every_format_and_extension(base, tmp_path):
    docs = (ROOT / "docs" / "data.md").read_text()
    (tmp_path / "x.bin").write_text("")
    extensions = error_of(tokenize(base, tmp_path / "x.bin"), 2).partition("Text is read from ")[2].partition(" files")[0]
    types = run_program("adept", "config", "--explain", "data.train.0.format").stdout.partition("type")[2].partition("\n")[0]
    assert ".parquet" in extensions
    for name in (*extensions.split(", "), *(word for word in types.replace("|", " ").split())):
        assert f"`{name}`" in docs, name

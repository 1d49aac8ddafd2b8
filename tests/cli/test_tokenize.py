"""`adept tokenize` on text and tokenizers that are hostile, or just large: bounded memory, Ctrl-C, errors that name the fix."""

import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import text_models
from conftest import BUILD, run_program, says

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return text_models.save("llama_tied", tmp_path_factory.mktemp("tokenize") / "base")


def changed_tokenizer(base, folder, **parts):
    shutil.copytree(base, folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    return folder


def tokenize(model, data, *arguments, **options):
    return run_program("adept", "tokenize", "--model", model, "--data", data, *arguments, check=False, **options)


def error_of(process, code=1):
    assert process.returncode == code, process.stderr
    return process.stderr.rpartition("error: ")[2]


# ------------------------------------------------------------------------------------------------------- time and signals


def splitting(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def several(normalizer, times):
    return {"type": "Sequence", "normalizers": [normalizer] * times}


def doubling(times):
    return several({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}, times)


def test_a_pattern_of_polynomial_cost_is_an_error_for_the_text(base, tmp_path):
    model = changed_tokenizer(base, tmp_path / "model", pre_tokenizer=splitting("x*+y|x"))
    (tmp_path / "x.txt").write_text("x" * 300_000)
    error = error_of(tokenize(model, tmp_path / "x.txt"))
    assert "tokenizer.json: pre_tokenizer.pattern.Regex is" in error and "backtracks too much" in error
    assert "x.txt: " in error


def test_a_normalizer_that_grows_without_bound_is_an_error(base, tmp_path):
    model = changed_tokenizer(base, tmp_path / "model", normalizer=doubling(40))
    (tmp_path / "a.txt").write_text("a cat")
    assert "normalizer.normalizers[" in error_of(tokenize(model, tmp_path / "a.txt"))


HOSTILE = {
    "pattern": ({"pre_tokenizer": splitting("x*+y|(?:x|xx|xxx)*z|x")}, ("x" * 100_000 + " ") * 500),
    "pattern of one long match": ({"pre_tokenizer": splitting("x*+y|(?:x|xx|xxx)*z|x")}, "x" * 50 * MEGABYTE),
    "pattern of one long step": ({"pre_tokenizer": splitting("x*+y")}, "x" * 150 * MEGABYTE),
    "pattern without a match": ({"pre_tokenizer": splitting("[0-9]z")}, "1 river " * 20 * MEGABYTE),
    "growth": ({"normalizer": doubling(5)}, "a" * 20 * MEGABYTE),
    "many parts": ({"normalizer": several({"type": "Lowercase"}, 100)}, "The River " * 10 * MEGABYTE),
    "marks": ({"normalizer": {"type": "NFC"}}, "e" + "\u0301\u0323" * 20 * MEGABYTE),
    "one long piece": ({"pre_tokenizer": None}, "the river " * 10 * MEGABYTE),
    "many words": ({}, "the river " * 20 * MEGABYTE),
}


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("kind", HOSTILE)
def test_ctrl_c_ends_every_kind_of_tokenization(kind, base, tmp_path):
    """Within about a second of the processor, whatever else the machine does."""
    parts, text = HOSTILE[kind]
    model = changed_tokenizer(base, tmp_path / "model", **parts)
    (tmp_path / "x.txt").write_text(text)
    process = subprocess.Popen(
        [BUILD / "adept", "tokenize", "--model", model, "--data", tmp_path / "x.txt"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and cpu_seconds(process) < 2:  # it has started, and is at the text
        time.sleep(0.05)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        signalled, used = cpu_seconds(process), 0
        while process.poll() is None:
            used = cpu_seconds(process) - signalled
            assert used < 1.5
            time.sleep(0.05)
    errors = process.communicate()[1]
    assert process.returncode in (130, 1), errors
    assert process.returncode == 130 or "tokenizer.json" in errors, "the budget of the text was used up first"


def test_a_gzip_file_of_zeros_is_refused_before_it_fills_the_memory(base, tmp_path):
    with gzip.open(tmp_path / "zeros.txt.gz", "wb") as file:
        for _ in range(100):
            file.write(bytes(MEGABYTE))
    error = error_of(tokenize(base, tmp_path / "zeros.txt.gz"))
    assert says(error, "zeros.txt.gz: ...gzip ...256 times their size")


# ------------------------------------------------------------------------------------------------------------------ memory


# A small process of its own: memory that this one has when it starts a child would count as the child's.
MEASURE = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
)


def peak_bytes(*command):
    command = [sys.executable, "-c", MEASURE, BUILD / "adept", *command]
    return int(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout)


def documents(size):
    generator = random.Random(1)
    words = text_models.WORDS["general"]
    line = " ".join(generator.choices(words, k=10_000))
    accents = "".join(generator.choices("éàü日本語 ", k=10_000))
    letters = "".join(generator.choices("abcdefghijklmnop", k=100_000))
    marks = "".join(generator.choices("éèẹ", k=10_000))

    def filled(part):
        return (part * (size // len(part.encode()) + 1)).encode()[:size].decode(errors="ignore")

    return {"words": filled(line + " "), "accents": filled(accents), "accents alone": filled(marks),
            "one word": filled(letters), "one letter": "a" * size, "blanks": " " * size}  # fmt: skip


def write_text(path, text):
    path.write_text(text if path.suffix == ".txt" else json.dumps({"text": text}, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_a_document_takes_at_most_four_times_its_size(form, base, tmp_path):
    nfc = changed_tokenizer(base, tmp_path / "nfc", normalizer={"type": "NFC"})
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    whole = changed_tokenizer(
        base, tmp_path / "whole", normalizer={"type": "Sequence", "normalizers": [prepend, blanks]}, pre_tokenizer=None
    )
    tokenize = ("tokenize", "--data", tmp_path / f"text.{form}", "--model")
    write_text(tmp_path / f"text.{form}", "a")
    floor = peak_bytes(*tokenize, base)
    size = 24 * MEGABYTE
    for name, text in documents(size).items():
        if form == "jsonl" and name != "accents":
            continue  # what differs is read before the tokenizer sees it
        write_text(tmp_path / f"text.{form}", text)
        for model in (base, nfc, whole) if name in ("words", "accents") else (base, nfc):
            taken = peak_bytes(*tokenize, model) - floor
            assert taken <= 4 * size, f"{name}, {model.name}: {taken / size:.2f} times"


def test_many_documents_on_many_threads_take_four_times_the_size_of_one_and_their_ids(base, tmp_path):
    """Of a measurement, which keeps all ids in memory."""
    size, count, out = 24 * MEGABYTE, 5, tmp_path / "out.json"
    measure = ("eval", "--model", base, "--data", tmp_path / "data", "--threads", 4, "--max-tokens", 512, "--out", out)
    (tmp_path / "data").mkdir()
    write_text(tmp_path / "data" / "0.txt", "the river and the house")
    floor = peak_bytes(*measure)
    for number, text in enumerate([documents(size)["words"]] * count):
        write_text(tmp_path / "data" / f"{number}.txt", text)
    taken = peak_bytes(*measure) - floor
    ids = 4 * json.loads(out.read_text())["datasets"]["data"]["text"]["all_tokens"]
    assert taken <= 4 * size + ids, f"{(taken - ids) / size:.2f} times"


def test_what_is_not_read_of_a_record_takes_no_memory(base, tmp_path):
    size = 24 * MEGABYTE
    data = tmp_path / "x.jsonl"
    tokenize = ("tokenize", "--model", base, "--data", data, "--on-bad-record", "skip")
    data.write_text('{"text": "a"}\n')
    floor = peak_bytes(*tokenize)
    numbers, keys = ",".join(["1"] * (size // 2)), ",".join(f'"{i}":{i}' for i in range(size // 16))
    for record in (f'{{"x":[{numbers}],"text":"a"}}', f'{{"x":[{numbers}]}}', f'{{"text":"a",{keys}}}',
                   f'{{"question":"a","choices":[{numbers}],"answer":1}}'):  # fmt: skip
        data.write_text(record + "\n")
        taken = peak_bytes(*tokenize) - floor
        assert taken <= 4 * size, f"{record[:20]}: {taken / size:.2f} times"


# ------------------------------------------------------------------------------------------------------------- own files


def test_what_a_command_writes_is_not_read_by_the_next_call(base, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    text_models.write_jsonl(data / "a.jsonl", ["the river"])
    for out in (data / "ids.txt", data / "deep" / "ids.jsonl", data):
        process = run_program("adept", "tokenize", "--model", base, "--data", data, "--out", out, check=False)
        assert "--out" in error_of(process, 2) and not (data / "ids.txt").exists()
    process = run_program("adept", "tokenize", "--model", base, "--data", data / "a.jsonl", "--out", data / "a.jsonl", check=False)
    assert "is an input of the source" in error_of(process, 2)
    shutil.copytree(base, data / "model")
    (data / "model" / "merges.txt").write_text("a b\n")
    process = tokenize(base, data)
    assert len(process.stdout.splitlines()) == 1 and "ignored 1 (1 model folder)" in process.stderr


def test_tokens_that_other_files_declare_are_found_in_text(base, tmp_path):
    model = shutil.copytree(base, tmp_path / "model")
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["additional_special_tokens"] = ["<|im_end|>"]
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    text_models.write_jsonl(tmp_path / "x.jsonl", ["the<|im_end|>"])
    new = len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"])
    assert json.loads(tokenize(model, tmp_path / "x.jsonl").stdout) == [*text_models.encode("the"), new]
    error = error_of(run_program("adept", "eval", "--model", model, "--data", tmp_path / "x.jsonl", check=False))
    assert f"the tokenizer produces the id {new}" in error and 'The token is "<|im_end|>".' in error

"""Tokens of other programs: Megatron-Core's and datatrove's files, made here byte by byte, as sources and as outputs."""

import json
import os
import pathlib
import shutil
import signal
import struct

import pytest
import text_models
from test_token_store import TEXTS, adept, config, error_of, files_of, ids_of, inputs, losses, start, tokenize, wait_for  # noqa: F401


def megatron_index(code, lengths, documents, width, version=1, offsets=None):
    offsets = offsets or [sum(lengths[:i]) * width for i in range(len(lengths))]
    return (b"MMIDIDX\0\0" + struct.pack("<QBQQ", version, code, len(lengths), len(documents))
            + struct.pack(f"<{len(lengths)}i", *lengths) + struct.pack(f"<{len(lengths)}q", *offsets)
            + struct.pack(f"<{len(documents)}q", *documents))  # fmt: skip


CODES = {"B": (1, 1), "b": (2, 1), "h": (3, 2), "i": (4, 4), "q": (5, 8), "H": (8, 2)}


def write_megatron(prefix, sequences, documents, kind="H"):
    """Sequences of ids; document i is sequences documents[i] to documents[i + 1] - 1."""
    code, width = CODES[kind]
    ids = [token for sequence in sequences for token in sequence]
    prefix.with_suffix(".bin").write_bytes(struct.pack(f"<{len(ids)}{kind}", *ids))
    prefix.with_suffix(".idx").write_bytes(megatron_index(code, [len(sequence) for sequence in sequences], documents, width))
    return prefix


def write_datatrove(path, documents, kind="H", metadata="gpt2|2\n9\n9 T"):
    ends, ids = [], []
    for document in documents:
        ids += document
        ends.append(len(ids))
    path.write_bytes(struct.pack(f"<{len(ids)}{kind}", *ids))
    pathlib.Path(f"{path}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
    if metadata:
        pathlib.Path(f"{path}.metadata").write_text(metadata)
    return path


def test_megatron_files_are_written_byte_by_byte_as_megatron_writes_them(folder):
    tokenize(folder, "--data", "text.jsonl", "--out", "ids", "--out-format", "megatron")
    documents = [[*text_models.encode(text), text_models.EOS] for text in TEXTS]
    write_megatron(folder / "expected", documents, list(range(len(documents) + 1)))
    for suffix in (".bin", ".idx"):
        assert (folder / f"ids{suffix}").read_bytes() == (folder / f"expected{suffix}").read_bytes()
    tokenize(folder, "--data", "text.jsonl", "--out", "store")
    tokenize(folder, "--data", "store", "--out", "again", "--out-format", "megatron")
    assert (folder / "again.bin").read_bytes() == (folder / "ids.bin").read_bytes()
    for path in ("ids", "ids.idx"):
        error = error_of(tokenize(folder, "--data", path, "--out", "ids", "--out-format", "megatron", check=False), 2)
        assert "is an input of the source" in error


def test_training_on_tokens_of_megatron_and_datatrove_is_training_on_their_text(folder):
    expected = losses(folder, config("text.jsonl"), "text")
    tokenize(folder, "--data", "text.jsonl", "--out", "ids", "--out-format", "megatron")
    plain = [text_models.encode(text) for text in TEXTS]
    (folder / "trove").mkdir()
    (folder / "trove" / "README.md").write_text("what it is")
    write_datatrove(folder / "trove" / "00000_tokens.ds", [[*ids, text_models.EOS] for ids in plain[:17]])
    write_datatrove(folder / "trove" / "00001_tokens.ds", plain[17:], kind="I", metadata=None)
    for number, path in enumerate(("ids", "ids.bin", "ids.idx", "trove", "trove/*.ds", ["trove/00000_tokens.ds", "trove/00001_tokens.ds"])):
        assert losses(folder, config(path), f"run-{number}") == expected, path
    bits = [adept(folder, "eval", "--model", "base", "--data", f"x={path}", "--packed").stdout for path in ("text.jsonl", "ids", "trove")]
    assert len(set(bits)) == 1, "bits per byte too: the length of the text is found by decoding"


@pytest.mark.parametrize("kind", CODES)
def test_megatron_files_of_every_integer_type_are_read(folder, kind):
    sequences = [[5, 6], [7], [], [8, 9, 10], []]
    prefix = write_megatron(folder / "ids", sequences, [0, 2, 3, 4, 5], kind)
    process = tokenize(folder, "--data", prefix)
    assert [json.loads(line) for line in process.stdout.splitlines()] == [[5, 6, 7], [8, 9, 10]]
    assert "skipped 2 (2 no tokens)" in process.stderr, "documents of two sequences, and of none with tokens"


def test_a_store_of_imported_tokens_is_continued_too(folder, tmp_path):
    documents = [ids for seed in range(60) for ids in map(text_models.encode, text_models.sentences("domain", 40, seed))]
    write_datatrove(folder / "a.ds", documents[:1000], metadata=None)
    write_datatrove(folder / "b.ds", documents[1000:], metadata=None)
    arguments = ["--data", "t=a.ds", "--data", "t=b.ds", "--shard-bytes", 3000]
    tokenize(folder, *arguments, "--out", tmp_path / "whole")
    process = start(folder, *arguments, "--out", tmp_path / "store")
    wait_for((tmp_path / "store" / "00003.tokens").exists, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "going on after" in tokenize(folder, *arguments, "--out", tmp_path / "store").stderr
    assert files_of(tmp_path / "store") == files_of(tmp_path / "whole")


def test_the_number_of_threads_that_decode_changes_no_byte(folder):
    documents = [*map(text_models.encode, text_models.sentences("domain", 500)), [], [5, 6, 7] * 750_000, [], [8]]
    write_datatrove(folder / "a.ds", documents * 2, metadata=None)
    for threads in (1, 4):
        tokenize(folder, "--data", "a.ds", "--out", f"store-{threads}", "--threads", threads)
    assert files_of(folder / "store-1") == files_of(folder / "store-4")
    counts = json.loads((folder / "store-4" / "store.json").read_text())["counts"]
    tokenizer = text_models.tokenizer()
    assert counts["bytes"] == 2 * sum(len(tokenizer.decode(ids).encode()) for ids in documents)
    assert counts["documents"] == 2 * 502 and counts["tokens"] == 2 * sum(map(len, documents))


def megatron_with(folder, index, ids=(5, 6, 7)):
    (folder / "ids.bin").write_bytes(struct.pack(f"<{len(ids)}H", *ids))
    (folder / "ids.idx").write_bytes(index)
    return folder / "ids"


GOOD = megatron_index(8, [2, 1], [0, 1, 2], 2)
BAD_MEGATRON = {
    "another kind": (b"PK\3\4" + GOOD, 'ids.idx: is not an index of Megatron-Core; expected "MMIDIDX"'),
    "empty": (b"", "ids.idx: is not an index"),
    "cut header": (GOOD[:20], "ids.idx: is cut short: it has 20 bytes"),
    "cut": (GOOD[:-1], "bytes do not match its 2 sequences and 3 document boundaries"),
    "version": (megatron_index(8, [2, 1], [0, 1, 2], 2, version=2), "ids.idx: has version 2; expected 1"),
    "byte order": (megatron_index(8, [2, 1], [0, 1, 2], 2, version=1 << 56), "another byte order"),
    "dtype": (megatron_index(9, [2, 1], [0, 1, 2], 2), "ids.idx: has dtype 9; expected 1 to 8"),
    "floats": (megatron_index(7, [2, 1], [0, 1, 2], 4), "ids.idx: has dtype 7 (float32); expected integers"),
    "multimodal": (GOOD + b"\0\1", "multimodal"),
    "huge counts": (GOOD[:18] + struct.pack("<QQ", 1 << 61, 1 << 61) + GOOD[34:], "do not match its 2305843009213693952 sequences"),
    "wrapping counts": (GOOD[:18] + struct.pack("<QQ", 2 + (1 << 62), 3) + GOOD[34:], "do not match its 4611686018427387906"),
    "no boundaries": (megatron_index(8, [2, 1], [], 2), "has no document boundaries"),
    "long sequence": (megatron_index(8, [2, 2], [0, 1, 2], 2), "sequence 1 has 2 tokens (uint16) from byte 4 on, but"),
    "negative length": (megatron_index(8, [2, -1], [0, 1, 2], 2), "sequence 1 has -1 tokens"),
    "negative offset": (megatron_index(8, [2, 1], [0, 1, 2], 2, offsets=[0, -2]), "from byte -2 on"),
    "huge offset": (megatron_index(8, [2, 1], [0, 1, 2], 2, offsets=[0, (1 << 63) - 1]), "from byte 9223372036854775807 on"),
    "repeated": (megatron_index(8, [2, 3], [0, 1, 2], 2, offsets=[0, 0]), "its sequences have more than 6 bytes, but"),
    "of shorter text": (megatron_index(8, [1, 1], [0, 1, 2], 2), "its sequences have only 4 bytes, but"),
    "first boundary": (megatron_index(8, [2, 1], [1, 2], 2), "document 0 starts at sequence 1; expected 0 to 0"),
    "boundaries back": (megatron_index(8, [2, 1], [0, 2, 1], 2), "document 2 starts at sequence 1; expected 2 to 2"),
    "boundary behind": (megatron_index(8, [2, 1], [0, 1, 3], 2), "document 2 starts at sequence 3; expected 1 to 2"),
    "missing sequence": (megatron_index(8, [2, 1], [0, 1], 2), "its documents have 1 of 2 sequences"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MEGATRON)
def test_bad_megatron_files_are_named(folder, case):
    index, message = BAD_MEGATRON[case]
    error = error_of(tokenize(folder, "--data", megatron_with(folder, index), "--out", "store", check=False), 1)
    assert message in error and "ids." in error
    assert not (folder / "store").exists()


def test_ids_and_eos_of_another_tokenizer_are_refused_by_document_and_position(folder):
    vocabulary = text_models.tokenizer().get_vocab_size()
    write_megatron(folder / "ids", [[5, 6], [7, vocabulary, 8]], [0, 1, 2])
    error = error_of(tokenize(folder, "--data", "ids", "--out", "store", check=False), 1)
    assert f"ids.bin: document 1, token 1: found the id {vocabulary}, but the model's vocabulary has {vocabulary} ids" in error
    write_megatron(folder / "ids", [[5, -6]], [0, 1], "h")
    assert "document 0, token 1: found the id -6" in error_of(tokenize(folder, "--data", "ids", check=False), 1)
    write_datatrove(folder / "a.ds", [[5, 6, 1], [7, 1]])
    error = error_of(tokenize(folder, "--data", "a.ds", check=False), 1)
    assert 'a.ds: documents 0 to 1 end in the token 1 ("<s>"), but the EOS token of the model is 2 ("</s>")' in error
    assert "eos_token_id in generation_config.json" in error
    write_datatrove(folder / "a.ds", [[5, 6, 1], [7, 8]])
    assert len(ids_of(folder, "a.ds")) == 2, "no EOS: not all of them end in it"


@pytest.mark.parametrize("file, ends", [("generation_config.json", [2, 1]), ("config.json", [2, 1]), ("generation_config.json", 1)])
def test_documents_may_end_in_another_end_token_of_the_model(folder, file, ends):
    """As conversations do that were tokenized with their end of turn."""
    path = folder / "base" / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), "eos_token_id": ends}))
    write_datatrove(folder / "a.ds", [[5, 6, 1], [7, 1]])
    assert ids_of(folder, "a.ds") == [[5, 6, 1], [7, 1]]
    assert len(losses(folder, config("a.ds"))) == 3, "and a run reads them"
    write_datatrove(folder / "a.ds", [[5, 6, 0], [7, 0]])
    error = error_of(tokenize(folder, "--data", "a.ds", check=False), 1)
    assert 'end in the token 0 ("<pad>"), but the EOS token of the model is 2' in error


def test_bad_datatrove_files_are_named(folder):
    def error():
        return error_of(tokenize(folder, "--data", "a.ds", check=False), 1)

    write_datatrove(folder / "a.ds", [[5, 6], [7]])
    index = (folder / "a.ds.index").read_bytes()
    (folder / "a.ds").write_bytes((folder / "a.ds").read_bytes()[:-1])
    assert "a.ds: has 5 bytes for the 3 tokens of a.ds.index; expected 2 or 4 bytes per token" in error()
    write_datatrove(folder / "a.ds", [[5, 6], [7]])
    (folder / "a.ds.index").write_bytes(index[:-1])
    assert "a.ds.index: has 15 bytes; expected 8 per document" in error()
    for ends in ((3, 2), (2, 1 << 63)):
        (folder / "a.ds.index").write_bytes(struct.pack("<2Q", *ends))
        assert f"a.ds.index: document 1 ends at token {ends[1]}, before it starts at {ends[0]}" in error()
    (folder / "a.ds.index").write_bytes(struct.pack("<2Q", 2, 1 << 62))
    assert "a.ds: has 6 bytes for the 4611686018427387904 tokens" in error()
    write_datatrove(folder / "a.ds", [[5, 6], [7]], metadata="gpt2|4\n3\n3 T")
    assert "a.ds.metadata: says 4 bytes per token, but a.ds has 2" in error()
    (folder / "a.ds.index").unlink()
    assert "a.ds: has no index a.ds.index" in error()
    os.mkfifo(folder / "a.ds.index")
    assert "a.ds: has no index a.ds.index; expected a file" in error()
    write_datatrove(folder / "b.ds", [[5, 6]])
    (folder / "b.ds.loss").write_bytes(b"\1\1")
    assert "b.ds.loss: is ignored" in tokenize(folder, "--data", "b.ds").stderr


def test_tokens_and_text_do_not_mix_in_a_source(folder):
    write_datatrove(folder / "a.ds", [[5, 6]])
    write_megatron(folder / "ids", [[5, 6]], [0, 1])
    tokenize(folder, "--data", "text.jsonl", "--out", "store")
    for paths, message in ((("a.ds", "text.jsonl"), "found a datatrove token file and text or an absent file (text.jsonl)"),
                           (("ids", "a.ds"), "found a Megatron-Core dataset and a datatrove token file (a.ds)"),
                           (("store", "store"), "found 2 token stores; expected one per source")):  # fmt: skip
        error = error_of(tokenize(folder, *(word for path in paths for word in ("--data", f"x={path}")), check=False), 2)
        assert message in error
    error = error_of(tokenize(folder, "--data", "ids", "--template", "{b}", "--split", "train", check=False), 2)
    assert "found split, template, but it is a Megatron-Core dataset" in error
    (folder / "ids").mkdir()
    shutil.copy(folder / "text.jsonl", folder / "ids")
    error = error_of(tokenize(folder, "--data", "ids", check=False), 2)
    assert "ids: found a folder, and a Megatron-Core dataset of this prefix (ids.bin)" in error
    assert len(ids_of(folder, "ids/")) == len(TEXTS) and len(ids_of(folder, "ids.bin")) == 1
    (folder / "mixed").mkdir()
    write_datatrove(folder / "mixed" / "a.ds", [[5, 6]])
    shutil.copy(folder / "text.jsonl", folder / "mixed")
    error = error_of(tokenize(folder, "--data", "mixed", check=False), 2)
    assert "mixed: found token files of datatrove (mixed/a.ds) and text (mixed/text.jsonl)" in error
    assert "is a token store already" in error_of(tokenize(folder, "--data", "store", "--out", "new", check=False), 2)

"""The tokenizer against Hugging Face `tokenizers`: the same ids and the same decoded text.

Real text and the real SmolLM2 vocabulary are used where they are present; hard strings and random Unicode always.
"""

import gzip
import json
import random
import subprocess

import pytest
from conftest import BUILD
from fuzz_tokenizer import fuzz
from tokenizer_kinds import (
    HARD_STRINGS,
    KINDS,
    NORMALIZERS,
    TRAINING_TEXT,
    added_tokens,
    byte_level_bpe,
    crossing_bpe,
    gpt2,
    ignored_merges,
    llama2,
    llama3,
    metaspace_always,
    mistral,
    normalized,
    partial_byte_fallback,
    qwen2,
    smollm,
    splits,
    subword_prefix,
    unknown_bytes_as_token,
    unknown_bytes_dropped,
    with_model_options,
    word_suffix,
)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers


def run_tool(path, requests):
    """One reply per request; ["error"] of the whole load is raised."""
    process = subprocess.run(
        [str(BUILD / "tokenizer_tool"), str(path)],
        input="\n".join(json.dumps(request) for request in requests),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if process.returncode != 0:
        raise RuntimeError(process.stderr)
    lines = process.stdout.split("\n")
    replies = [json.loads(line) for line in lines if line]
    assert len(replies) == len(requests) + 1
    return replies


def assert_same(peer, path, texts):
    peer.no_truncation()
    peer.no_padding()
    peer.save(str(path))
    replies = run_tool(path, texts)
    assert replies[0]["vocab_size"] == peer.get_vocab_size()
    expected = peer.encode_batch(texts)
    for text, reply, encoding in zip(texts, replies[1:], expected):
        shown = f"text {text[:200]!r}"
        assert reply.get("ids") == encoding.ids, shown + str(reply)[:300]
        if len(text) < 500:
            assert reply["bare"] == peer.encode(text, add_special_tokens=False).ids, shown
        assert reply["text"] == peer.decode(encoding.ids, skip_special_tokens=False), shown
        assert reply["plain"] == peer.decode(encoding.ids, skip_special_tokens=True), shown


def random_texts(seed, count):
    """Strings that mix scripts, blanks, digits, marks and anything else that is a code point."""
    generator = random.Random(seed)
    ranges = [
        (0x20, 0x7E), (0x20, 0x7E), (0x61, 0x7A), (0x00, 0x20), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F),
        (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1AB0, 0x1AFF), (0x1E00, 0x1FFF),
        (0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xA700, 0xA7FF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF),
        (0x10000, 0x11FFF), (0x16000, 0x18FFF), (0x1D000, 0x1FAFF), (0x20000, 0x323AF), (0xE0000, 0x10FFFF),
    ]  # fmt: skip
    favourites = list(" \n\t  ''aeésſKk019½٣.,!-\u0301\u200d\u00a0\u0085\u180e\u3000▁Ġ日한🙂") + ["'s", "'LL", "  ", "\r\n", "<s>", "word", "the "]
    texts = []
    for _ in range(count):
        favourite_share = generator.random()
        subset = generator.sample(ranges, generator.randint(1, 6))
        text = []
        for _ in range(generator.randint(1, 60)):
            if generator.random() < favourite_share:
                text.append(generator.choice(favourites))
            else:
                text.append(chr(generator.randint(*generator.choice(subset))))
        texts.append("".join(text))
    return texts


def all_texts():
    texts = list(HARD_STRINGS)
    texts += ["".join(chr(a) + chr(b) + c for b in range(128)) for a in range(128) for c in ("", "xyz ")[a % 2 :][:1]]
    texts += [blank * count + tail for blank in (" ", "\n", "\t", "\u00a0", "\r\n", " \n") for count in (2, 3, 17, 500) for tail in ("", "x", "\n")]
    texts += ["a" * 3000, "ab" * 2000, "日" * 1500, "\u0301" * 100, "a\u0301" * 300, "1" * 1000, "!" * 999, "'" * 99]
    return texts + random_texts(seed=20240229, count=400)


def long_texts():
    """Pieces far beyond the windows in which patterns are matched and characters merged, and around their ends."""
    generator = random.Random(5)
    texts = ["".join(generator.choices(letters, k=100_000)) for letters in ("ab", "aeiou", "the wor", "日本語の", "é\u0301e")]
    texts += ["a" * 100_003, "ab" * 40_001, " " * 70_000 + "x", "ha" * 30_000 + "\n" * 40_000, "1" * 70_001, "日" * 40_000]
    texts += [f"{'x' * count}{tail}" for count in (*range(376, 392), *range(760, 772)) for tail in ("", " y", "  y", "'s", "\n\n1")]
    texts += [f"{' ' * count}y{'é' * (count // 2)}!" for count in range(376, 392)]
    return texts


@pytest.mark.parametrize("kind", [gpt2, llama3, ignored_merges, qwen2, llama2, mistral, partial_byte_fallback, unknown_bytes_as_token, word_suffix, subword_prefix], ids=lambda kind: kind.__name__)
def test_long_pieces_give_the_ids_of_tokenizers(kind, tmp_path):
    assert_same(kind(), tmp_path / "tokenizer.json", long_texts())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_gives_the_ids_and_text_of_tokenizers(kind, tmp_path):
    assert_same(kind(), tmp_path / "tokenizer.json", all_texts())


def test_every_split_gives_the_ids_of_tokenizers(tmp_path):
    texts = HARD_STRINGS + TRAINING_TEXT[:6] + random_texts(seed=7, count=150)
    texts += [("x" * count) + tail for count in range(378, 390) for tail in (" y1z", "  A,b", "'ll")]  # a match's first view
    texts += ["-" * count + "ab" for count in range(60, 70)]  # where few starts are tried at a time
    peer = crossing_bpe()
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    failures = []
    for name, parts in splits().items():
        peer.pre_tokenizer = pre_tokenizers.Sequence([*parts, last])
        try:
            assert_same(peer, tmp_path / "tokenizer.json", texts)
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{name}: {str(error)[:400]}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_gives_the_ids_of_tokenizers(name, tmp_path):
    """Every code point that any normalizer changes, alone and before marks of other combining classes."""
    peer = normalized(NORMALIZERS[name])
    points = [*range(0x20, 0x3400), *range(0xA000, 0xAC10), *range(0xF900, 0x11FFF), *range(0x16000, 0x17000),
              *range(0x1B000, 0x1FC00), *range(0x2F800, 0x2FA20), *range(0xE0000, 0xE0200)]  # fmt: skip
    points = [point for point in points if not 0xD800 <= point <= 0xDFFF]
    if not name.startswith("nf") and name != "lowercase":
        points = points[::20]  # these ask for nothing but white space and bytes
    texts = ["".join(f"{chr(p)}x{chr(p)}\u0345\u0301{chr(p)}\u0334 " for p in points[i : i + 64]) for i in range(0, len(points), 64)]
    peer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    long = ["é" * 3000, "Ω\u0345" * 2000, "\u1112\u1161\u11ab" * 1000, "a" + "\u1161\u11ab" * 1000, "\u0b47\u0b3e" * 2000,
            "ｶﾞﾊﾟ" * 1000, "한글" * 2000, "ṩ\u0307" * 1500, "x" * 70_000 + "\u0301" + "y" * 70_000]  # fmt: skip
    generator = random.Random(11)
    marks = "\u0301\u0316\u0323\u0334\u0345\u05b0\u0f71\u3099\u0f73\u0344"
    long += ["".join(generator.choices("aeéoΩ" + marks, weights=[1] * 5 + [share] * len(marks), k=5000)) for share in (1, 10, 1000)]
    assert_same(peer, tmp_path / "tokenizer.json", [*texts, *HARD_STRINGS, *long])


@pytest.mark.parametrize("pattern", [r"\p{L}", r"\p{N}", r"\s", r"\w", r"[^\s\p{L}\p{N}]", r"[\p{M}\p{P}\p{Sc}\p{Sk}]", "digits"])
def test_classes_hold_the_code_points_that_tokenizers_puts_there(pattern, tmp_path):
    """Members are removed, so that the ids are what is not in the class: every code point outside the large blocks."""
    peer = byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), vocab_size=257)
    removing = (
        pre_tokenizers.Digits(True) if pattern == "digits" else pre_tokenizers.Split(Regex(pattern), "removed")
    )
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([removing, last])
    if pattern == "digits":  # pieces must show: a two-digit merge that only adjacent digits could use
        peer = crossing_bpe(removing)
    points = [*range(0, 0x3500), *range(0x4DB0, 0x4E20), *range(0x9FF0, 0xAC10), *range(0xD7A0, 0xD800),
              *range(0xE000, 0xE010), *range(0xF8F0, 0x12600), *range(0x13000, 0x13500), *range(0x14400, 0x14700),
              *range(0x16000, 0x17010), *range(0x187F0, 0x18D20), *range(0x1AFF0, 0x1FC00), *range(0x1FFF0, 0x20010),
              *range(0x2A6D0, 0x2A750), *range(0x2B730, 0x2B830), *range(0x2CEA0, 0x2CEC0), *range(0x2EBE0, 0x2EE70),
              *range(0x2F7F0, 0x2FA30), *range(0x31340, 0x31360), *range(0x323A0, 0x323C0), *range(0xE0000, 0xE0200),
              *range(0xEFFF0, 0xF0010), *range(0x10FFF0, 0x110000)]  # fmt: skip
    texts = ["".join("a" + chr(p) + "\n" for p in points[i : i + 256]) for i in range(0, len(points), 256)]
    assert_same(peer, tmp_path / "tokenizer.json", texts)


def real_lines(folder, limit):
    """The documents of every file, up to `limit` bytes of each."""
    for path in sorted(folder.glob("*.gz")):
        taken = 0
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                if path.name.endswith(".jsonl.gz"):
                    line = "\n".join(str(value) for value in json.loads(line).values())
                yield line
                taken += len(line)
                if taken > limit:
                    break


@pytest.mark.parametrize("kind", [gpt2, smollm, llama3, qwen2, llama2, mistral], ids=lambda kind: kind.__name__)
def test_real_text_gives_the_ids_and_text_of_tokenizers(kind, real_text, tmp_path):
    texts = list(real_lines(real_text, 30_000)) if real_text else TRAINING_TEXT  # the stand-in where there is no real text
    assert_same(kind(), tmp_path / "tokenizer.json", texts)


@pytest.mark.parametrize("kind", [gpt2, smollm, llama3, qwen2], ids=lambda kind: kind.__name__)
def test_mutated_text_gives_the_ids_of_tokenizers(kind, real_text, tmp_path):
    """A short run of fuzz_tokenizer.py."""
    lines = list(real_lines(real_text, 30_000)) if real_text else TRAINING_TEXT
    assert fuzz(kind, tmp_path / "tokenizer.json", lines, strings=2_000, seed=1) is None


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf):
    """The real SmolLM2 tokenizer, from the tokens and merges of its GGUF file."""
    import gguf

    fields = gguf.GGUFReader(smollm2_gguf).fields
    texts = lambda key: [bytes(fields[key].parts[i]).decode() for i in fields[key].data]  # noqa: E731
    tokens, merges = texts("tokenizer.ggml.tokens"), texts("tokenizer.ggml.merges")
    kinds = [int(fields["tokenizer.ggml.token_type"].parts[i][0]) for i in fields["tokenizer.ggml.token_type"].data]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in zip(tokens, kinds) if kind != 1])
    return tokenizer


def test_the_real_smollm2_gives_the_ids_and_text_of_tokenizers(smollm2, real_text, tmp_path):
    texts = all_texts() + (list(real_lines(real_text, 200_000)) if real_text else TRAINING_TEXT)
    assert_same(smollm2, tmp_path / "tokenizer.json", texts)


def test_random_ids_decode_as_in_tokenizers(tmp_path):
    """Bytes that form no UTF-8, byte tokens cut in the middle, ids that no token has."""
    generator = random.Random(99)
    for kind in (gpt2, llama2, mistral, metaspace_always, word_suffix, subword_prefix, added_tokens, partial_byte_fallback):
        peer = kind()
        path = tmp_path / "tokenizer.json"
        peer.save(str(path))
        size = peer.get_vocab_size() + 3
        requests = [[generator.randrange(size) for _ in range(generator.randint(0, 30))] for _ in range(300)]
        requests += [[generator.randrange(min(size, 270)) for _ in range(9)] for _ in range(200)]
        for ids, reply in zip(requests, run_tool(path, requests)[1:]):
            assert reply["text"] == peer.decode(ids, skip_special_tokens=False), (kind.__name__, ids)
            assert reply["plain"] == peer.decode(ids, skip_special_tokens=True), (kind.__name__, ids)


def test_invalid_utf8_counts_as_python_replaces_it(tmp_path):
    peer = gpt2()
    path = tmp_path / "tokenizer.json"
    peer.save(str(path))
    generator = random.Random(5)
    bad = [b"\xff", b"a\x80b", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe2\x28\xa1"]
    lead = [0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0xF0, 0x90, 0xF4, 0x8F, 0xFF]
    bad += [bytes(generator.choice(lead) for _ in range(generator.randint(1, 12))) for _ in range(500)]
    replies = run_tool(path, [{"hex": data.hex()} for data in bad])
    for data, reply in zip(bad, replies[1:]):
        assert reply["ids"] == peer.encode(data.decode("utf-8", errors="replace")).ids, data


def test_old_files_are_read_as_tokenizers_reads_them(tmp_path):
    """Merges as strings, no model.type, no optional fields, vocabulary in any order, truncation and padding ignored."""
    peer = llama3()
    parts = json.loads(peer.to_str())
    parts["model"]["merges"] = ["#version: 0.2"] + [" ".join(pair) for pair in parts["model"]["merges"]]
    for key in ("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"):
        parts["model"].pop(key)
    vocab = list(parts["model"]["vocab"].items())
    random.Random(1).shuffle(vocab)
    parts["model"]["vocab"] = dict(vocab)
    parts["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    parts["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
                        "pad_type_id": 0, "pad_token": "<s>"}  # fmt: skip
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(parts), encoding="utf-8")
    old = Tokenizer.from_file(str(path))
    old.no_truncation()
    old.no_padding()
    for text, reply in zip(HARD_STRINGS, run_tool(path, HARD_STRINGS)[1:]):
        assert reply["ids"] == old.encode(text).ids == peer.encode(text).ids


def test_added_tokens_get_the_ids_that_tokenizers_gives_them(tmp_path):
    """Ids in the file are not believed: what the vocabulary has keeps its id, the rest is numbered on."""
    parts = json.loads(gpt2().to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    parts["added_tokens"] += [{"id": 7, "content": "word", **flags}, {"id": 5000, "content": "zzqq", **flags}]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(parts), encoding="utf-8")
    peer = Tokenizer.from_file(str(path))
    texts = ["a word zzqq", "zzqqword", *HARD_STRINGS]
    replies = run_tool(path, texts)
    assert replies[0]["vocab_size"] == peer.get_vocab_size()
    for text, reply in zip(texts, replies[1:]):
        assert reply["ids"] == peer.encode(text).ids
        assert reply["text"] == peer.decode(reply["ids"], skip_special_tokens=False)


def test_a_missing_unknown_token_is_an_error_where_tokenizers_has_one(tmp_path):
    peer = with_model_options(unknown_bytes_dropped(), unk_token="<none>")
    path = tmp_path / "tokenizer.json"
    peer.save(str(path))
    known, unknown = run_tool(path, ["the words", "日"])[1:]
    assert known["ids"] == peer.encode("the words").ids
    assert 'unk_token is "<none>"' in unknown["error"]
    with pytest.raises(Exception, match="none"):
        peer.encode("日")

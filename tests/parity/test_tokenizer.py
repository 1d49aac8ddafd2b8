"""The tokenizer against Hugging Face `tokenizers`: the same ids and the same decoded text.

Tokenizers of every supported kind are trained here on a few kilobytes of text. Real text and the real SmolLM2 vocabulary
are used where they are present; hard strings and random Unicode always.
"""

import gzip
import json
import pathlib
import random
import subprocess

import pytest
from conftest import BUILD
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
HARD_STRINGS = json.loads((HERE / "hard_strings.json").read_text(encoding="utf-8"))

# Published patterns of the models of these names.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TRAINING_TEXT = [
    "The patient's blood pressure was 120/80 mmHg; she didn't take aspirin, and he'll return in 2024.",
    "def main():\n    print('Hello, world')\n    return 0\n\n\nif x == 10:\n\tpass",
    "Straße, café, naïve, über; Ελλάδα, Россия; 日本語のテキスト、中文文本。한국어 문장. ภาษาไทย",
    "the words of the world in the sword and the word, wordless words' ends   with   blanks  ",
    "1234567890 3.14159 42 007 1,000,000 \u0663\u0664 \u00bd emoji \U0001f600\U0001f468\u200d\U0001f469 \u2014 \u201cquotes\u201d",
    "IT'S WE'LL DON'T I'M can't won't they're you've we'd it's",
] * 3 + HARD_STRINGS


# ---------------------------------------------------------------------------------------------- tokenizers of all kinds


def byte_level_bpe(pre_tokenizer, normalizer=None, vocab_size=900, specials=("<|endoftext|>",), alphabet=True, **model):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT if alphabet else ["plain ascii words only, the words of the word"] * 9, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return with_model_options(tokenizer, **model) if model else tokenizer


def with_model_options(tokenizer, **options):
    parts = json.loads(tokenizer.to_str())
    parts["model"].update(options)
    return Tokenizer.from_str(json.dumps(parts))


def sentencepiece_bpe(normalizer, pre_tokenizer, decoder, byte_fallback=True, fuse_unk=True):
    specials = ["<unk>", "<s>", "</s>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else [])
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse_unk, byte_fallback=byte_fallback))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=len(specials) + 500, special_tokens=specials, show_progress=False, limit_alphabet=90)
    words = [word for line in TRAINING_TEXT for word in line.split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    parts = json.loads(tokenizer.to_str())
    # Bytes are plain vocabulary in such models; only the control tokens are added tokens.
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] in ("<unk>", "<s>", "</s>")]
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.decoder = decoder
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def llama2_decoder():
    return decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def split_then_bytes(*patterns):
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2():
    tokenizer = byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def gpt2_with_prefix():
    return byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True))


def smollm():
    return byte_level_bpe(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )


def joined_digits():
    return byte_level_bpe(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=True)])
    )


def llama3():
    tokenizer = byte_level_bpe(split_then_bytes(LLAMA3), specials=["<s>", "<|endoftext|>"], ignore_merges=True)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 0)]),
        ]
    )
    return tokenizer


def ignored_merges():
    """Merges are cut, so that whole words of the vocabulary are reached by `ignore_merges` alone."""
    parts = json.loads(llama3().to_str())
    parts["model"]["merges"] = parts["model"]["merges"][:60]
    return Tokenizer.from_str(json.dumps(parts))


def qwen2():
    return byte_level_bpe(split_then_bytes(QWEN2), normalizers.NFC(), specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def llama2():
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return sentencepiece_bpe(normalizer, None, llama2_decoder())


def mistral():
    return sentencepiece_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), llama2_decoder())


def metaspace_always():
    return sentencepiece_bpe(
        None, pre_tokenizers.Metaspace(prepend_scheme="always"), decoders.Metaspace(prepend_scheme="always"), False, False
    )


def metaspace_never():
    return sentencepiece_bpe(
        None, pre_tokenizers.Metaspace(prepend_scheme="never"), decoders.Metaspace(prepend_scheme="never"), False, True
    )


def metaspace_after_strip():
    return sentencepiece_bpe(
        normalizers.Strip(), pre_tokenizers.Metaspace(prepend_scheme="first", split=True), decoders.Metaspace(), True, False
    )


def metaspace_after_replace():
    """`first` looks at where the piece began in the original text, which Replace and Split move."""
    tokenizer = sentencepiece_bpe(
        normalizers.Sequence([normalizers.Replace("He", "x"), normalizers.Replace(Regex("[ad]"), "xyz")]),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split("y", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first", split=True)]
        ),
        decoders.Metaspace(),
    )
    return tokenizer


def unknown_bytes_dropped():
    return byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=False, vocab_size=60)


def unknown_bytes_as_token():
    return byte_level_bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        alphabet=False,
        vocab_size=60,
        specials=["<unk>"],
        unk_token="<unk>",
    )


def partial_byte_fallback():
    """Some byte tokens are missing: characters that need them are unknown, fused across bytes."""
    parts = json.loads(llama2().to_str())
    for byte in (0xE4, 0x9F, 0xCC):
        parts["model"]["vocab"].pop(f"<0x{byte:02X}>")
    return Tokenizer.from_str(json.dumps(parts))


def added_tokens():
    tokenizer = byte_level_bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    )
    tokenizer.add_special_tokens([AddedToken("<s>", lstrip=True), AddedToken("[MASK]", lstrip=True, rstrip=True)])
    tokenizer.add_tokens(
        [
            AddedToken("word", single_word=True),
            AddedToken("wor", single_word=True, normalized=False),
            AddedToken("lpad", lstrip=True, normalized=False),
            AddedToken("rpad", rstrip=True, normalized=False),
            AddedToken("DON", normalized=True),
            AddedToken("ﬁ", normalized=True),
            AddedToken("  ", normalized=False),
            AddedToken("</s>", rstrip=True),
            AddedToken("日本", normalized=False),
            AddedToken("日本語", normalized=False),
            AddedToken("\u0301", normalized=False),
            AddedToken("don't", single_word=True, normalized=False),
        ]
    )
    return tokenizer


def added_tokens_before_metaspace():
    tokenizer = mistral()
    tokenizer.add_special_tokens([AddedToken("<pad>", rstrip=True)])
    tokenizer.add_tokens([AddedToken("word", single_word=True), AddedToken("a", lstrip=True, normalized=False)])
    return tokenizer


def added_tokens_after_prepend():
    tokenizer = llama2()
    tokenizer.add_tokens([AddedToken("▁the", normalized=True), AddedToken("a", normalized=True), AddedToken("b", normalized=False)])
    return tokenizer


def word_suffix():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False, limit_alphabet=60
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    tokenizer.post_processor = processors.RobertaProcessing(("<unk>", 0), ("<unk>", 0))
    return tokenizer


def subword_prefix():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>"], continuing_subword_prefix="##", show_progress=False, limit_alphabet=60
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


def crossing_bpe(*parts):
    """Merges were learnt without any splitting, so that every boundary between pieces shows in the ids."""
    trained = byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), vocab_size=1500)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = pre_tokenizers.Sequence([*parts, last])
    return trained


def splits():
    regex, kinds = Regex, {}
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            kinds[f"blank_{behavior}_{invert}"] = [pre_tokenizers.Split(" ", behavior, invert)]
            kinds[f"letters_{behavior}_{invert}"] = [pre_tokenizers.Split(regex(r"[a-m]+|\d"), behavior, invert)]
    for name, pattern in {
        "empty_literal": "",
        "empty_matches": regex(r"x*"),
        "letters_or_nothing": regex(r"[a-c]*|b"),
        "lookbehind": regex(r"(?<=[a-z])(?=[A-Z])|(?<!\d),"),
        "lazy": regex(r"a.*?b|\w+?\b"),
        "atomic": regex(r"(?>a+)b|(?:ab)++|(c|d){2,3}"),
        "boundary": regex(r"\b\w|\B-"),
        "classes": regex(r"[\w&&[^\d_]]+|[^\S\n]{2,}|[\p{Lu}[0-9]]|\h\h"),
        "negated": regex(r"\P{L}+|\p{^Nd}\d"),
        "any": regex(r"..."),
        "escapes": regex(r"\x41|\x{e9}|\u00fc|\t|[\n\r\f\v\e\a]|\.|\-"),
        "ignore_case": regex(r"(?i)th|(?-i:E)s|k|[a-c]x"),
        "bounds": regex(r"\p{L}{2,4}|\d{,2}|o{2}"),
        "anchors": regex(r"\A.|.\z"),
        "line_anchors": regex(r"^.|\w$|\s++$|\n$"),
        "braces": regex(r"\d{1,2}+x|\p{N}{2}?a|o{1,3}?|\p{L}{3}+"),
        "marks": regex(r"\p{M}+|\p{P}|\p{S}|\p{Z}|\p{Cf}|\p{Cn}|\p{Co}"),
    }.items():
        kinds[name] = [pre_tokenizers.Split(pattern, "isolated")]
    kinds["deepseek"] = [
        pre_tokenizers.Split(regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(regex(r"[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
        pre_tokenizers.Split(regex(DEEPSEEK), "isolated"),
    ]
    for name, pattern in {"o200k": O200K, "cl100k": CL100K, "llama3_crossing": LLAMA3}.items():
        kinds[name] = [pre_tokenizers.Split(regex(pattern), "isolated")]
    kinds["digits"] = [pre_tokenizers.Digits(False)]
    kinds["whitespace"] = [pre_tokenizers.WhitespaceSplit()]
    return kinds


def normalized(normalizer):
    tokenizer = crossing_bpe()
    tokenizer.normalizer = normalizer
    return tokenizer


KINDS = [
    gpt2, gpt2_with_prefix, smollm, joined_digits, llama3, ignored_merges, qwen2, llama2, mistral, metaspace_always,
    metaspace_never, metaspace_after_strip, metaspace_after_replace, unknown_bytes_dropped, unknown_bytes_as_token,
    partial_byte_fallback, added_tokens, added_tokens_before_metaspace, added_tokens_after_prepend, word_suffix,
    subword_prefix,
]  # fmt: skip
NORMALIZERS = {
    "nfc": normalizers.NFC(),
    "nfd": normalizers.NFD(),
    "nfkc": normalizers.NFKC(),
    "nfkd": normalizers.NFKD(),
    "lowercase": normalizers.Lowercase(),
    "strip_left": normalizers.Strip(True, False),
    "strip_right": normalizers.Strip(False, True),
    "replace": normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace("e", "")]),
    "bytes": normalizers.ByteLevel(),
}


# --------------------------------------------------------------------------------------------------------- the comparison


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
    assert_same(peer, tmp_path / "tokenizer.json", [*texts, *HARD_STRINGS])


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

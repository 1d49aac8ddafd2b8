"""Tokenizers of every kind that adept reads, trained here on a few kilobytes of text."""

import json
import pathlib

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

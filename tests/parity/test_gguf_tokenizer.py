"""Tokenizers imported from GGUF files against tokenizers, transformers and sentencepiece."""

import io
import json

import pytest
import regex
import sentencepiece
import tokenizers
import transformers
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

from gguf_files import (
    CORPUS, GEMMA_TEXTS, GPT2, SPECIAL_TOKENS, TEXTS, ids_of_adept, original_parts, write_gguf, write_tiny_llama)  # fmt: skip


def default_pieces(text):
    """llama.cpp's `default`: each expression cuts the pieces of the one before, what does not match stays a piece."""
    pieces = [text]
    for pattern in [r"[\p{P}\$\+<=>\^~\|]+", GPT2.removesuffix(r"|\s+"), r"\p{N}+", r"[0-9][0-9][0-9]"]:
        cut = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(pattern, piece):
                cut += [piece[end : match.start()], match.group()]
                end = match.end()
            cut.append(piece[end:])
        pieces = [piece for piece in cut if piece]
    return pieces


def train_byte_level(pre):
    normalizer, parts = original_parts(pre)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre == "llama-bpe"))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(parts)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    corpus = CORPUS
    if pre == "default":
        corpus = [piece for text in CORPUS for piece in default_pieces(text)]
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def import_tokenizer(adept, folder, tokenizer):
    """The imported tokenizer as transformers loads it, and the folder."""
    path = write_tiny_llama(folder / "tiny.gguf", tokenizer, len(tokenizer["ggml.tokens"]))
    adept("import-gguf", "--gguf", path, "--out", folder / "out")
    return transformers.AutoTokenizer.from_pretrained(folder / "out")


@pytest.mark.parametrize("pre", ["smollm", "command-r", "llama-bpe", "qwen2", "gpt-2", "olmo", "default"])
def test_an_imported_tokenizer_gives_the_ids_of_the_original(pre, adept, tmp_path):
    original = train_byte_level(pre)
    model = json.loads(original.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    types = [3 if token in SPECIAL_TOKENS else 1 for token in tokens]
    bos = model["vocab"]["<|im_start|>"]
    imported = import_tokenizer(adept, tmp_path, {
        "ggml.model": "gpt2", "ggml.pre": pre, "ggml.tokens": tokens, "ggml.token_type": types,
        "ggml.merges": [" ".join(merge) for merge in model["merges"]], "ggml.bos_token_id": bos,
        "ggml.eos_token_id": model["vocab"]["<|im_end|>"]})
    adds_bos = [bos] if pre == "llama-bpe" else []

    def expected(text):
        if pre != "default":
            return adds_bos + original.encode(text).ids
        parts = regex.split("(" + "|".join(map(regex.escape, SPECIAL_TOKENS)) + ")", text)
        pieces = [piece for part in parts for piece in ([part] if part in SPECIAL_TOKENS else default_pieces(part))]
        return [index for piece in pieces for index in original.encode(piece).ids]

    for text in TEXTS:
        ids = imported(text)["input_ids"]
        assert ids == expected(text), repr(text)
        if not original_parts(pre)[0]:  # what is normalized is another text
            assert imported.decode(ids[len(adds_bos) :]) == text
    assert ids_of_adept(adept, tmp_path / "out", TEXTS, tmp_path) == [expected(text) for text in TEXTS if text]
    assert (imported.bos_token, imported.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_an_imported_sentencepiece_tokenizer_gives_the_ids_of_sentencepiece(adept, tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False, max_sentence_length=100000)
    original = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = original.get_piece_size()
    kinds = [(original.is_byte, 6), (original.is_control, 3), (original.is_unknown, 2), (original.is_unused, 5)]
    types = [next((number for is_kind, number in kinds if is_kind(index)), 1) for index in range(size)]
    imported = import_tokenizer(adept, tmp_path, {
        "ggml.model": "llama", "ggml.pre": "default", "ggml.tokens": [original.id_to_piece(i) for i in range(size)],
        "ggml.token_type": types, "ggml.scores": [original.get_score(index) for index in range(size)],
        "ggml.bos_token_id": original.bos_id(), "ggml.eos_token_id": original.eos_id(),
        "ggml.unknown_token_id": original.unk_id()})
    texts = [text for text in TEXTS if text]
    for text in texts:
        ids = imported(text)["input_ids"]
        assert ids == [original.bos_id()] + original.encode(text), repr(text)
        assert imported.decode(ids[1:]) == text
    expected = [[original.bos_id()] + original.encode(text) for text in texts]
    assert ids_of_adept(adept, tmp_path / "out", texts, tmp_path) == expected


def train_gemma(folder):
    """A SentencePiece model of Gemma's kind in `folder`, as transformers' GemmaTokenizer and as the processor itself."""
    blanks = ["\u2581" * count for count in range(2, 8)]
    symbols = ["<mask>", *["\n" * count for count in range(1, 5)], *blanks, "<table>", "</table>", "\t", "\t\t",
               "<start_of_turn>"]
    with open(folder / "tokenizer.model", "wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=writer, model_type="bpe", vocab_size=900, byte_fallback=True,
            split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
            add_dummy_prefix=False, allow_whitespace_only_pieces=True, hard_vocab_limit=False,
            max_sentence_length=100000, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>",
            eos_piece="<eos>", user_defined_symbols=symbols)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return transformers.GemmaTokenizer.from_pretrained(folder), processor


def gemma_vocabulary(processor):
    """As llama.cpp's converter writes it: added tokens have the score -1000 and plain blanks."""
    tokens, types, scores = [], [], []
    for index in range(processor.get_piece_size()):
        token, kind, score = processor.id_to_piece(index), 6 if processor.is_byte(index) else 1, processor.get_score(index)
        if kind == 1 and (processor.is_control(index) or processor.is_unknown(index) or token in ("<mask>", "<start_of_turn>")):
            kind, score = 3, -1000.0
        elif kind == 1 and (not token.strip("\u2581\n\t") and len(token) > 1 or token in ("\n", "\t", "<table>", "</table>")):
            kind, score, token = 4, -1000.0, token.replace("\u2581", " ")
        tokens, types, scores = [*tokens, token], [*types, kind], [*scores, score]
    return {"ggml.model": "llama", "ggml.pre": "default", "ggml.tokens": tokens, "ggml.token_type": types,
            "ggml.scores": scores, "ggml.bos_token_id": 2, "ggml.eos_token_id": 1, "ggml.unknown_token_id": 3,
            "ggml.padding_token_id": 0, "ggml.add_bos_token": True, "ggml.add_sep_token": False,
            "ggml.add_eos_token": False, "ggml.add_space_prefix": False}


def test_an_imported_gemma_tokenizer_gives_the_ids_of_transformers(adept, tmp_path):
    original, processor = train_gemma(tmp_path)
    vocabulary = gemma_vocabulary(processor)
    assert 4 in vocabulary["ggml.token_type"] and "  " in vocabulary["ggml.tokens"]
    imported = import_tokenizer(adept, tmp_path, vocabulary)
    expected = {text: [2, *original(text, add_special_tokens=False)["input_ids"]] for text in GEMMA_TEXTS}
    for text, ids in expected.items():
        assert imported(text)["input_ids"] == ids, repr(text)
        assert imported.decode(ids[1:]) == text.replace("\u2581", " ")
    texts = [text for text in GEMMA_TEXTS if text]
    assert ids_of_adept(adept, tmp_path / "out", texts, tmp_path) == [expected[text] for text in texts]
    # transformers' own reading of a GGUF file, where the architecture says that it is Gemma's; it adds no "▁▁".
    path = write_gguf(tmp_path / "gemma3.gguf", "gemma3", {}, {}, vocabulary)
    architecture, parts, _ = get_gguf_tokenizer(str(path))
    backend, _ = convert_gguf_tokenizer(architecture, parts)
    for text in texts:
        if "\u2581" not in text:
            assert [2, *backend.encode(text, add_special_tokens=False).ids] == expected[text], repr(text)

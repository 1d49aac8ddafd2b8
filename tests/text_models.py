"""Tiny random models that can read: tiny_models' architectures with a tokenizer of their own, and texts for them."""

import functools
import json
import pathlib
import random
import sys

import pytest
import tokenizers
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent / "parity"))
import tiny_models  # noqa: E402

SPECIAL = ["<pad>", "<s>", "</s>"]  # ids 0, 1, 2, as in tiny_models.COMMON
EOS = 2
WORDS = {
    "general": "the a of to in and was that on with river house year people city water light music old small found "
    "walked played north winter bread story train green often never before after children window".split(),
    "domain": "patient fever cardiac lesion renal of the with in chronic acute tissue muscle enzyme disorder gene "
    "symptom therapy diagnosis anaemia and inherited infant blood nerve signs elevated".split(),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For tiny models more threads only wait for each other. A module that imports this gets it."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def sentences(kind, count, seed=0):
    """`count` documents of a few made-up sentences each; lengths vary a lot."""
    generator = random.Random(f"{kind} {seed}")
    documents = []
    for _ in range(count):
        words = [generator.choice(WORDS[kind]) for _ in range(generator.choice((2, 5, 9, 17, 40)))]
        if generator.random() < 0.3:
            words.insert(1, generator.choice(("naïve", "42", "№7", "\n", "日本", "🙂")))
        documents.append(" ".join(words).capitalize() + ".")
    return documents


def write_jsonl(path, documents, field="text"):
    path.write_text("".join(json.dumps({field: text}, ensure_ascii=False) + "\n" for text in documents), "utf-8")
    return path


@functools.cache
def tokenizer(vocab_size=tiny_models.COMMON["vocab_size"], bos=False):
    """Byte-level BPE of exactly `vocab_size` ids; with `bos`, <s> in front of every text."""
    result = tokenizers.Tokenizer(tokenizers.models.BPE())
    result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    result.train_from_iterator(sentences("general", 200, seed=99) + sentences("domain", 200, seed=99), trainer)
    assert result.get_vocab_size() == vocab_size
    if bos:
        result.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return result


def encode(text, bos=False):
    return tokenizer(bos=bos).encode(text).ids


def save(name, directory, seed=0, bos=False, dtype=None, max_shard_size="5GB", **keys):
    """A model directory of one of tiny_models.TINY_MODELS, complete with tokenizer. `keys` change the architecture."""
    tiny = tiny_models.TINY_MODELS[name]
    if keys:
        changed = tiny_models.TinyModel(tiny.config_class, {**tiny.keys, **keys}, tiny.edits)
        tiny_models.TINY_MODELS[name], restored = changed, tiny
    try:
        model = tiny_models.build(name, seed=seed)
        if dtype is not None:
            model = model.to(dtype)
        tiny_models.save(name, model, directory, max_shard_size=max_shard_size)
    finally:
        if keys:
            tiny_models.TINY_MODELS[name] = restored
    tokenizer(bos=bos).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "model_max_length": 512}, indent=2)
    )
    return directory


def make_inputs(folder):
    """A model `base` and a text `text.jsonl`, for tests of the command line."""
    save("llama_tied", folder / "base")
    write_jsonl(folder / "text.jsonl", sentences("general", 30))
    return folder


def load(directory, dtype=None):
    """The model as transformers loads it."""
    keys = {} if dtype is None else {"dtype": dtype}
    attention = tiny_models.attention_of(transformers.AutoConfig.from_pretrained(directory).model_type)
    return transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation=attention, **keys).eval()


def _mix(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def sample(windows, limit):
    """The windows that a limit of tokens takes, by the rule of docs/method.md; each as (index, ids, first_target)."""
    taken, left = [], limit
    for i in sorted(range(len(windows)), key=lambda i: _mix(_mix(_mix(0) ^ 9) ^ i)):
        ids, first = windows[i]
        if taken and left <= 0:
            break
        part = ids[:left] if taken else ids
        if len(part) > first:
            taken.append((i, part, first))
        left -= len(ids)
    return sorted(taken)


def windows(documents_ids, seq_len, stride=None):
    """(ids, first_target) of every window: each document alone, a token scored once. Windows of one token are none."""
    result = []
    for ids in documents_ids:
        scored = 0
        for begin in range(0, len(ids), stride or seq_len):
            window = ids[begin : begin + seq_len]
            if len(window) >= 2 and scored < len(ids):
                result.append((window, max(1, scored - begin)))
            scored = max(scored, min(begin + seq_len, len(ids)))
            if scored >= len(ids):
                break
    return result

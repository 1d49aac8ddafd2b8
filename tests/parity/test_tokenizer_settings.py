"""Tokens that the files beside tokenizer.json declare: the ids of transformers' AutoTokenizer, and its BOS, EOS and PAD.

Each case is a folder of tokenizer.json (byte-level BPE, with or without a normalizer) and a few of tokenizer_config.json,
special_tokens_map.json and added_tokens.json; the tokens are the same in all, so that files agree or contradict.
"""

import json
import random

import pytest
import transformers
from conftest import run_program
from test_tokenizer import run_tool
from tokenizer_kinds import TRAINING_TEXT
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

CONFIG = {"model_type": "llama", "vocab_size": 400, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
TEXTS = [
    "<|im_start|>the river<|im_end|>", "a</s> b", "a  <s>  b  </s>  c", "x<PAD>y <pad> z", "  [MASK]  [MASK]x",
    "word words sword word", "The  WORD word's", "<a><b> <c>", " <a>  <b>\n<c>\t", "<IM_START> <im_start>",
    "<|im_start|><|im_start|>  <|im_end|>", "plain text", "<unk> <img>", "ab</s></s>  ab", "\u00e9<b>\u00e9",
]  # fmt: skip
CONTENTS = ["<|im_start|>", "<|im_end|>", "</s>", "<s>", "<pad>", "[MASK]", "word", "<a>", "<b>", "<c>", "<IM_START>",
            "the", "<unk>", "<img>"]  # fmt: skip


def tokenizer(normalizer=None, listed=("<pad>", "<s>", "</s>"), bos=False):
    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        result.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    result.train_from_iterator(TRAINING_TEXT, trainer)
    parts = json.loads(result.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] in listed]
    result = Tokenizer.from_str(json.dumps(parts))
    if bos:
        result.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return result


def write(folder, base, **files):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if isinstance(base, Tokenizer):
        base.save(str(folder / "tokenizer.json"))
    else:
        (folder / "tokenizer.json").write_text(base)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **files.pop("tokenizer_config", {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def expected(folder):
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [peer(text)["input_ids"] for text in TEXTS]
    return ids, {"bos": peer.bos_token_id, "eos": peer.eos_token_id, "pad": peer.pad_token_id}


def assert_same(folder, names=("bos", "eos", "pad")):
    ids, special = expected(folder)
    replies = run_tool(folder, TEXTS)
    shown = "".join(f"\n{file.name}: {file.read_text()}" for file in folder.glob("*.json") if file.name != "tokenizer.json")
    for text, reply, want in zip(TEXTS, replies[1:], ids):
        assert reply.get("ids") == want, f"text {text!r}{shown}"
    assert {name: replies[0][name] for name in names} == {name: special[name] for name in names}, shown


def flags(**changed):
    return {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True, **changed}


def token(content, **changed):
    return {"content": content, **flags(**changed)}


NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
IM = {"300": token("<|im_start|>"), "301": token("<|im_end|>")}
CASES = {
    "nothing beside": {},
    "added_tokens_decoder": {"tokenizer_config": {**NAMES, "added_tokens_decoder": IM}},
    "additional_special_tokens": {"tokenizer_config": {**NAMES, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
    "extra_special_tokens": {"tokenizer_config": {"extra_special_tokens": ["<|im_end|>", "<|im_start|>"]}},
    "extra_special_tokens by name": {"tokenizer_config": {"extra_special_tokens": {"image_token": "<img>", "eos_token": "<c>"}}},
    "model_specific_special_tokens": {"tokenizer_config": {"model_specific_special_tokens": {"image_token": "<img>", "eos_token": "<c>"}}},
    "model_specific_special_tokens beside others": {"tokenizer_config": {"model_specific_special_tokens": {"image_token": "<img>"},
                                                                         "audio_token": "<a>"}},
    "model_specific_special_tokens and a map": {"tokenizer_config": {"model_specific_special_tokens": {"image_token": "<img>"}},
                                                "special_tokens_map": {"extra_special_tokens": {"audio_token": "<a>"}}},
    "both lists": {"tokenizer_config": {"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>"]}},
    "empty list of the new name": {"tokenizer_config": {"extra_special_tokens": [], "additional_special_tokens": ["<b>"]}},
    "added_tokens.json": {"tokenizer_config": NAMES, "added_tokens": {"<|im_start|>": 300, "<|im_end|>": 301}},
    "added_tokens.json in another order": {"added_tokens": {"<|im_start|>": 301, "<|im_end|>": 300, "<a>": 310}},
    "added_tokens.json with the id of another": {"added_tokens": {"<a>": 2, "<b>": 300, "<c>": 300}},
    "added_tokens.json with special ones": {
        "tokenizer_config": {"eos_token": "<a>", "extra_special_tokens": ["<b>"]},
        "added_tokens": {"<b>": 300, "<a>": 301, "<c>": 302},
    },
    "special_tokens_map.json": {"special_tokens_map": {"eos_token": token("<a>", lstrip=True), "additional_special_tokens": ["<b>"]}},
    "special_tokens_map.json against tokenizer_config.json": {
        "tokenizer_config": {**NAMES, "extra_special_tokens": ["<c>"]},
        "special_tokens_map": {"eos_token": "<a>", "pad_token": None, "extra_special_tokens": ["<b>", token("<img>")][:1],
                               "image_token": "<img>"},
    },
    "a decoder switches the other files off": {
        "tokenizer_config": {**NAMES, "added_tokens_decoder": IM},
        "special_tokens_map": {"eos_token": "<a>", "additional_special_tokens": ["<b>"]},
        "added_tokens": {"<c>": 302},
    },
    "changed flags": {"tokenizer_config": {"added_tokens_decoder": {"2": token("</s>", rstrip=True), "1": token("<s>", lstrip=True)}}},
    "normalized": {"tokenizer_config": {"added_tokens_decoder": {"300": token("<IM_START>", normalized=True, special=False),
                                                                 "0": token("<pad>", normalized=True)}}},
    "single words": {"tokenizer_config": {"added_tokens_decoder": {"300": token("word", single_word=True, special=False)}}},
    "a token of the vocabulary": {"tokenizer_config": {"additional_special_tokens": ["the"]}},
    "ids that are not given": {"tokenizer_config": {"added_tokens_decoder": {"390": token("<b>"), "350": token("<a>"), "5": token("<c>")}}},
    "ids beyond the model": {"tokenizer_config": {"added_tokens_decoder": {"100000": token("<b>")}}},
    "flags left out": {"tokenizer_config": {"added_tokens_decoder": {"300": {"content": "<IM_START>"},
                                                                     "301": {"content": "<b>", "special": True}}}},
    "named by an object": {"tokenizer_config": {"eos_token": {"__type": "AddedToken", "content": "<a>", "lstrip": True},
                                                "mask_token": {"__type": "AddedToken", **token("[MASK]", lstrip=True)},
                                                "image_token": {"__type": "AddedToken", "content": "<img>", "rstrip": True}}},
    "special tokens are text": {"tokenizer_config": {**NAMES, "split_special_tokens": True, "added_tokens_decoder": {
        **IM, "302": token("<a>", special=False)}}},
    "without the file's own": {"tokenizer_config": {"bos_token": None, "eos_token": "<unk>", "unk_token": "<unk>"}},
    "bos and eos switches": {"tokenizer_config": {**NAMES, "add_bos_token": True, "add_eos_token": True}},
}  # fmt: skip
BASES = {
    "plain": lambda: tokenizer(),
    "lower case": lambda: tokenizer(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "few listed": lambda: tokenizer(listed=("<s>",), bos=True),
}


@pytest.mark.parametrize("base", BASES)
def test_every_combination_gives_the_ids_of_auto_tokenizer(base, tmp_path):
    built = BASES[base]()
    failures = []
    for number, (name, files) in enumerate(CASES.items()):
        folder = write(tmp_path / str(number), built, **json.loads(json.dumps(files)))
        try:
            assert_same(folder)
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{name}: {str(error)[:600]}")
    assert not failures, "\n\n".join(failures)


def random_files(generator):
    """Any of the files with any of the tokens: they agree by accident only."""

    def some(least=0, most=4):
        return generator.sample(CONTENTS, generator.randint(least, most))

    def described(content, kind="__type"):
        values = {key: generator.random() < 0.4 for key in ("lstrip", "rstrip", "single_word", "normalized", "special")}
        kept = {key: value for key, value in values.items() if generator.random() < 0.8}
        return {"content": content, **kept, **({"__type": "AddedToken"} if kind else {})}

    def value(content):
        return described(content) if generator.random() < 0.3 else content

    names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "image_token"]
    config = {name: value(generator.choice(CONTENTS)) for name in generator.sample(names, generator.randint(0, 3))}
    if generator.random() < 0.5:
        config["additional_special_tokens"] = [value(content) for content in some()]
    if generator.random() < 0.2:
        config["extra_special_tokens"] = some()
    if generator.random() < 0.2:
        config["model_specific_special_tokens"] = {f"{content}_token": content for content in some()}
    if generator.random() < 0.4:
        ids = generator.sample([0, 1, 2, 3, 260, 299, 300, 301, 302, 350], 4)
        config["added_tokens_decoder"] = {str(index): described(content, "") for index, content in zip(ids, some(most=4))}
    files = {"tokenizer_config": config}
    if generator.random() < 0.5:
        chosen = generator.sample(names, generator.randint(0, 3))
        files["special_tokens_map"] = {name: generator.choice(CONTENTS) for name in chosen}
        for name in chosen[:1]:
            described_token = described(generator.choice(CONTENTS), "")
            described_token.pop("special", None)
            files["special_tokens_map"][name] = described_token
        if generator.random() < 0.3:
            files["special_tokens_map"]["additional_special_tokens"] = some()
    if generator.random() < 0.5:
        files["added_tokens"] = {content: generator.choice([2, 299, 300, 301, 302, 303]) for content in some()}
    return files


def test_random_combinations_give_the_ids_of_auto_tokenizer(tmp_path):
    generator = random.Random(20260101)
    bases = [build() for build in BASES.values()]
    checked, failures = 0, []
    for number in range(150):
        base = generator.choice(bases)
        folder = write(tmp_path / str(number), base, **random_files(generator))
        try:
            expected(folder)
        except Exception:  # noqa: BLE001  (transformers itself refuses this one)
            continue
        checked += 1
        try:
            assert_same(folder)
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{number}: {str(error)[:900]}")
    assert checked > 100
    assert not failures, f"{len(failures)} of {checked}\n" + "\n\n".join(failures[:5])


def test_the_pad_token_of_tokenizer_json_counts(tmp_path):
    parts = json.loads(tokenizer(listed=("<s>", "</s>")).to_str())
    parts["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                        "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
    assert_same(write(tmp_path / "without", json.dumps(parts)), names=())
    assert_same(write(tmp_path / "with", json.dumps(parts), tokenizer_config={"pad_token": "<b>"}))


def test_ids_of_a_vocabulary_with_gaps_are_those_of_auto_tokenizer(tmp_path):
    parts = json.loads(tokenizer().to_str())
    vocab = parts["model"]["vocab"]
    vocab["<far>"] = 320
    parts["added_tokens"].append({"id": 320, **token("<far>")})
    for number, files in enumerate(
        [
            {"tokenizer_config": {"additional_special_tokens": ["<a>", "<b>"]}},
            {"tokenizer_config": {"added_tokens_decoder": {"320": token("<far>"), "301": token("<a>")}}},
        ]
    ):
        assert_same(write(tmp_path / str(number), json.dumps(parts), **files))


@pytest.mark.parametrize("place", ["added_tokens_decoder", "added_tokens.json", "additional_special_tokens"])
def test_tens_of_thousands_of_declared_tokens_give_the_ids_of_auto_tokenizer(place, tmp_path):
    """As models of speech have: one for each of their codes."""
    words = [f"<code_{i}>" for i in range(25_000)]
    files = {
        "added_tokens_decoder": {"tokenizer_config": {"added_tokens_decoder": {str(300 + i): token(w) for i, w in enumerate(words)}}},
        "added_tokens.json": {"added_tokens": {word: 300 + i for i, word in enumerate(words)}},
        "additional_special_tokens": {"tokenizer_config": {"additional_special_tokens": words}},
    }[place]  # fmt: skip
    folder = write(tmp_path / "model", tokenizer(), **files)
    texts = ["the<code_0> river <code_24999><code_1> <code_25000>", "".join(words[::999])]
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    assert [reply["ids"] for reply in run_tool(folder, texts)[1:]] == [peer(text)["input_ids"] for text in texts]


@pytest.mark.parametrize(
    "name, normalizer, config, problem",
    [
        ("LlamaTokenizerFast", None, {}, "its pre-tokenizer is not a ByteLevel"),
        ("Qwen2Tokenizer", normalizers.Lowercase(), {}, "its normalizer is NFC"),
        ("GPT2TokenizerFast", normalizers.NFC(), {}, "it has no normalizer"),
        ("GPT2Tokenizer", None, {"add_prefix_space": True}, "its add_prefix_space is true"),
        ("GPT2Tokenizer", None, {}, None),
        ("PreTrainedTokenizerFast", normalizers.Lowercase(), {"add_prefix_space": True}, None),
    ],
)
def test_a_class_that_does_not_fit_tokenizer_json_is_named(name, normalizer, config, problem, tmp_path):
    folder = write(tmp_path / "model", tokenizer(normalizer), tokenizer_config={"tokenizer_class": name, **config})
    texts = [*TEXTS, "e\u0301"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    process = run_program("adept", "tokenize", "--model", folder, "--data", tmp_path / "texts.jsonl")
    ours = [json.loads(line) for line in process.stdout.splitlines()]
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    assert (ours == [peer(text)["input_ids"] for text in texts]) == (problem is None)
    if problem is None:
        assert "tokenizer_class" not in process.stderr
    else:
        assert f"tokenizer_class is {name}, which transformers 5 may build differently" in process.stderr
        assert problem in process.stderr

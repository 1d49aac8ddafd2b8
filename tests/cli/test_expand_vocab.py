"""adept expand-vocab: new tokens in tokenizer.json, and rows for them in the embedding and the head."""

import filecmp
import hashlib
import json

import pytest
import text_models
import tokenizers
import torch
import transformers
from conftest import run_program, says
from safetensors.torch import load_file, save_file
from text_models import one_thread  # noqa: F401
from tiny_models import TINY_MODELS

TOKENS = ["arachnodactyly", " with two words", "naïve日本", "tail ", "Thrombo"]
TEXTS = ["arachnodactyly and with two words", "xThrombocyte naïve日本 tail end", "Patient arachnodactylyarachnodactyly.", "plain"]
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
OLD = 331  # tiny_models.COMMON


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = text_models.make_inputs(tmp_path_factory.mktemp("vocabulary"))
    write_tokens(folder / "tokens.txt", TOKENS)
    return folder


def write_tokens(path, tokens):
    path.write_bytes("".join(token + "\n" for token in tokens).encode())
    return path


def expand(model, tokens, out, **options):
    return run_program("adept", "expand-vocab", "--model", model, "--tokens", tokens, "--out", out, **options)


def tensors_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def mean_of_pieces(table, tokenizer, token):
    return table[tokenizer.encode(token, add_special_tokens=False).ids].double().mean(0).to(table.dtype)


def assert_expanded(base, out, tokens, rows):
    """Rows of new tokens are means, everything else is as it was."""
    old, new = tensors_of(base), tensors_of(out)
    before = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    after = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    ids = [after.token_to_id(token) for token in tokens]
    assert ids == list(range(before.get_vocab_size(), before.get_vocab_size() + len(tokens)))
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        if name not in TABLES:
            assert torch.equal(new[name], tensor) and new[name].dtype == tensor.dtype, name
            continue
        assert new[name].shape == (rows, tensor.shape[1]) and new[name].dtype == tensor.dtype
        kept = [row for row in range(len(tensor)) if row not in ids]
        assert torch.equal(new[name][kept], tensor[kept]), name
        for id, token in zip(ids, tokens):
            assert torch.equal(new[name][id], mean_of_pieces(tensor, before, token)), (name, token)
    assert json.loads((out / "config.json").read_text()) == {**json.loads((base / "config.json").read_text()), "vocab_size": rows}
    return ids


def assert_tokenizes_as_transformers(base, out, tokens, texts=TEXTS):
    """As AutoTokenizer reads it, and as transformers itself adds the tokens."""
    peer = transformers.AutoTokenizer.from_pretrained(out)
    added = transformers.AutoTokenizer.from_pretrained(base)
    added.add_tokens(tokens)
    for text in [*texts, *tokens]:
        ids = json.loads(run_program("adept", "tokenize", "--model", out, "--text", text).stdout)
        assert ids == peer(text)["input_ids"] == added(text)["input_ids"], text
        assert peer.decode(peer(text)["input_ids"]) == added.decode(added(text)["input_ids"])


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_the_row_of_a_new_token_is_the_mean_of_its_pieces(name, tmp_path):
    base = text_models.save(name, tmp_path / "base")
    out = tmp_path / "out"
    process = expand(base, write_tokens(tmp_path / "tokens.txt", TOKENS), out)
    ids = assert_expanded(base, out, TOKENS, OLD + len(TOKENS))
    assert says(process.stdout, f"added {len(TOKENS)} tokens...{ids[0]} to {ids[-1]}")
    model = text_models.load(out)
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == OLD + len(TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_dtypes_shards_and_other_files_stay(name, dtype, tmp_path):
    base = text_models.save(name, tmp_path / "base", dtype=dtype, max_shard_size="60KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "generation_config.json").write_text('{"eos_token_id": 2}')
    out = tmp_path / "out"
    expand(base, write_tokens(tmp_path / "tokens.txt", TOKENS), out)
    assert_expanded(base, out, TOKENS, OLD + len(TOKENS))
    for file in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        assert filecmp.cmp(base / file, out / file, shallow=False)


def test_a_tied_head_that_is_stored_twice_grows_with_the_embedding(tmp_path):
    base = text_models.save("llama_tied", tmp_path / "base")
    stored = load_file(base / "model.safetensors")
    save_file({**stored, TABLES[1]: stored[TABLES[0]].clone()}, base / "model.safetensors", {"format": "pt"})
    expand(base, write_tokens(tmp_path / "tokens.txt", TOKENS), tmp_path / "out")
    assert_expanded(base, tmp_path / "out", TOKENS, OLD + len(TOKENS))


@pytest.mark.parametrize("spare, rows", [(3, OLD + len(TOKENS)), (len(TOKENS), OLD + len(TOKENS)), (53, OLD + 53)])
def test_rows_without_a_token_are_used_first(spare, rows, tmp_path):
    base = text_models.save("qwen2", tmp_path / "base", vocab_size=OLD + spare)
    process = expand(base, write_tokens(tmp_path / "tokens.txt", TOKENS), tmp_path / "out")
    assert_expanded(base, tmp_path / "out", TOKENS, rows)
    embedding = f"keeps its {rows} rows" if spare >= len(TOKENS) else f"grows from {OLD + spare} to {rows} rows"
    assert f"the embedding {embedding}: {min(spare, len(TOKENS))} of the new tokens use rows that had no token\n" in process.stdout
    assert text_models.load(tmp_path / "out").config.vocab_size == rows


@pytest.mark.parametrize("bos", [False, True])
def test_ids_are_those_of_transformers(bos, tmp_path):
    base = text_models.save("llama_tied", tmp_path / "base", bos=bos)
    expand(base, write_tokens(tmp_path / "tokens.txt", TOKENS), tmp_path / "out")
    assert_tokenizes_as_transformers(base, tmp_path / "out", TOKENS)


def test_tokens_that_other_files_add_keep_their_ids(tmp_path):
    base = text_models.save("llama_tied", tmp_path / "base", vocab_size=OLD + 2)
    config = json.loads((base / "tokenizer_config.json").read_text())
    config |= {"mask_token": "<mask>", "extra_special_tokens": ["<extra>"]}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    old = transformers.AutoTokenizer.from_pretrained(base)
    expand(base, write_tokens(tmp_path / "tokens.txt", TOKENS), tmp_path / "out")
    new = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert {new.convert_tokens_to_ids(token) for token in ("<mask>", "<extra>")} == {OLD, OLD + 1}
    assert old.get_vocab().items() <= new.get_vocab().items()
    assert new.convert_tokens_to_ids(TOKENS) == list(range(OLD + 2, OLD + 2 + len(TOKENS)))
    assert_tokenizes_as_transformers(base, tmp_path / "out", TOKENS, [*TEXTS, "a<mask>b <extra>"])


def sentencepiece_like(normalizer):
    result = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    result.normalizer = normalizer
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    result.train_from_iterator(text_models.sentences("general", 100) + ["arachnodactyly Thrombo tail two words naïve日本"], trainer)
    return result


@pytest.mark.parametrize("kind", ["metaspace", "lowercase", "nfkc"])
def test_a_normalizer_applies_to_new_tokens_as_in_transformers(kind, tmp_path):
    n = tokenizers.normalizers
    normalizer = {"metaspace": n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")]), "lowercase": n.Lowercase(), "nfkc": n.NFKC()}
    base = text_models.save("mistral", tmp_path / "base")
    sentencepiece_like(normalizer[kind]).save(str(base / "tokenizer.json"))
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}')
    expand(base, write_tokens(tmp_path / "tokens.txt", TOKENS), tmp_path / "out")
    assert_tokenizes_as_transformers(base, tmp_path / "out", TOKENS, [*TEXTS, "ARACHNODACTYLY thrombo THROMBO"])


def test_the_rest_of_tokenizer_json_keeps_its_bytes(inputs, tmp_path):
    expand(inputs / "base", inputs / "tokens.txt", tmp_path / "out")
    old, new = ((folder / "tokenizer.json").read_text("utf-8") for folder in (inputs / "base", tmp_path / "out"))
    begin, end = new.index('"added_tokens"'), new.index('"normalizer"')
    assert old[: old.index('"added_tokens"')] == new[:begin] and old[old.index('"normalizer"') :] == new[end:]
    parts = json.loads(old)
    parts.pop("added_tokens")  # which a file need not have
    base = text_models.save("llama_tied", tmp_path / "base")
    (base / "tokenizer.json").write_text(json.dumps(parts))
    expand(base, inputs / "tokens.txt", tmp_path / "out2")
    new = tokenizers.Tokenizer.from_file(str(tmp_path / "out2" / "tokenizer.json"))
    assert [new.token_to_id(token) for token in TOKENS] == list(range(OLD, OLD + len(TOKENS)))
    assert set(TOKENS) <= {token.content for token in new.get_added_tokens_decoder().values()}


def test_tokens_of_several_calls_accumulate_and_stay_in_derived_models(inputs, tmp_path):
    run_program("adept", "expand", "--model", inputs / "base", "--after", "1", "--out", tmp_path / "deeper")
    expand(tmp_path / "deeper", write_tokens(tmp_path / "first.txt", TOKENS[:2]), tmp_path / "first")
    expand(tmp_path / "first", write_tokens(tmp_path / "second.txt", TOKENS[2:]), tmp_path / "second")
    record = json.loads((tmp_path / "second" / "adept_added_tokens.json").read_text())
    assert record["tokens"] == [{"id": OLD + i, "token": token} for i, token in enumerate(TOKENS)]
    manifest = "adept_expansion.json"
    assert filecmp.cmp(tmp_path / "deeper" / manifest, tmp_path / "second" / manifest, shallow=False)
    run_program("adept", "expand", "--model", tmp_path / "second", "--after", "0", "--out", tmp_path / "deepest")
    run_program("adept", "dial", "--model", tmp_path / "deepest", "--alpha", "0.5", "--out", tmp_path / "dialed")
    for model in ("deepest", "dialed"):
        assert json.loads((tmp_path / model / "adept_added_tokens.json").read_text()) == record


def test_all_problems_of_a_list_are_reported_at_once(inputs, tmp_path):
    word = tokenizers.Tokenizer.from_file(str(inputs / "base" / "tokenizer.json")).id_to_token(300)
    assert word.startswith("Ġ")
    lines = [b"fine", b"", b"bro\xffken", b"fine", word.replace("Ġ", " ").encode(), word.encode(), b"</s>", b"x" * 5000]
    (tmp_path / "tokens.txt").write_bytes(b"\r\n".join(lines))
    process = expand(inputs / "base", tmp_path / "tokens.txt", tmp_path / "out", check=False)
    assert process.returncode == 1 and not (tmp_path / "out").exists()
    for message in (
        "tokens.txt: expected one new token per line", "line 2: is empty", 'line 3: ...not valid UTF-8', 'line 4: "fine" ...line 1',
        'line 5: ...already token 300', "line 6: ...already token 300", 'line 7: "</s>" is already token 2', "line 8: ...longer than 4096 bytes",
    ):  # fmt: skip
        assert says(process.stderr, message), message
    assert "line 1:" not in process.stderr
    write_tokens(tmp_path / "tokens.txt", ["</s>", "<s>"] * 600)
    problems = expand(inputs / "base", tmp_path / "tokens.txt", tmp_path / "out", check=False).stderr
    assert says(problems, "line 1000: ") and says(problems, "... and 200 more") and not says(problems, "line 1001: ")


def test_tokens_that_normalization_makes_equal_or_empty_are_refused(tmp_path):
    n = tokenizers.normalizers
    base = text_models.save("mistral", tmp_path / "base")
    sentencepiece_like(n.Sequence([n.Lowercase(), n.Strip()])).save(str(base / "tokenizer.json"))
    process = expand(base, write_tokens(tmp_path / "t.txt", ["Thrombo", "thromBO", "   "]), tmp_path / "out", check=False)
    assert process.returncode == 1
    assert says(process.stderr, 'line 2: "thromBO" ...same as line 1 after normalization')
    assert says(process.stderr, 'line 3: "   " is empty after normalization')


def test_spaces_around_a_token_are_part_of_it_and_said(inputs, tmp_path):
    process = expand(inputs / "base", inputs / "tokens.txt", tmp_path / "out")
    assert says(process.stderr, 'tokens.txt: 2 tokens start or end with a space...part of the token...line 2 " with two words", line 4 "tail "')
    write_tokens(tmp_path / "many.txt", [f" term{i}" for i in range(30)])
    process = expand(inputs / "base", tmp_path / "many.txt", tmp_path / "many")
    assert says(process.stderr, 'many.txt: 30 tokens...line 5 " term4", ...') and "term5" not in process.stderr


@pytest.mark.parametrize("rows, message", [(OLD - 1, "ids up to 330, but the embedding has 330 rows")])
def test_a_tokenizer_with_more_tokens_than_rows_is_refused(rows, message, inputs, tmp_path):
    base = text_models.save("llama_tied", tmp_path / "base", vocab_size=rows)
    process = expand(base, inputs / "tokens.txt", tmp_path / "out", check=False)
    assert process.returncode == 1 and says(process.stderr, message) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("gap, listed, message", [(OLD - 2, False, f'next id {OLD - 2} belongs to "gap"'),
                                                  (OLD + 9, True, f'"<mask>" has the id {OLD + 10} but would get {OLD - 2}')])
def test_a_vocabulary_whose_gaps_would_move_tokens_is_refused(gap, listed, message, inputs, tmp_path):
    base = text_models.save("llama_tied", tmp_path / "base", vocab_size=OLD + 50)
    parts = json.loads((base / "tokenizer.json").read_text())
    vocabulary, merges = parts["model"]["vocab"], parts["model"]["merges"]
    for _ in range(3):
        vocabulary.pop("".join(merges.pop()))
    vocabulary["gap"] = gap  # OLD - 2 entries
    config = json.loads((base / "tokenizer_config.json").read_text())
    if listed:
        parts["added_tokens"].append({**parts["added_tokens"][0], "id": gap, "content": "gap"})
        config["mask_token"] = "<mask>"
    (base / "tokenizer.json").write_text(json.dumps(parts))
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    process = expand(base, inputs / "tokens.txt", tmp_path / "out", check=False)
    assert process.returncode == 1 and not (tmp_path / "out").exists()
    assert says(process.stderr, f"tokenizer.json: cannot get new tokens...{message}...gaps")


def test_the_input_is_not_changed_and_an_output_is_not_replaced_unasked(inputs, tmp_path):
    digest = lambda: {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (inputs / "base").iterdir()}  # noqa: E731
    before = digest()
    expand(inputs / "base", inputs / "tokens.txt", tmp_path / "out")
    process = expand(inputs / "base", inputs / "tokens.txt", tmp_path / "out", check=False)
    assert process.returncode == 1 and says(process.stderr, "out: already exists...--force")
    process = expand(tmp_path / "out", inputs / "tokens.txt", tmp_path / "twice", check=False)
    assert process.returncode == 1 and says(process.stderr, f'line 1: "arachnodactyly" is already token {OLD}')
    process = expand(inputs / "base", inputs / "tokens.txt", inputs / "base", check=False)
    assert process.returncode == 2 and says(process.stderr, "--out ...is the model directory")
    assert digest() == before


# Training their rows: train.train_new_embeddings.


def run_config(folder, output_dir, **keys):
    config = {
        "model": str(folder / "new"), "output_dir": str(output_dir), "threads": 1, "seq_len": 48, "dtype": "fp32",
        "data": {"train": [{"name": "domain", "path": str(folder / "domain.jsonl")}],
                 "general": [{"name": "general", "path": str(folder / "text.jsonl")}],
                 "eval": [{"name": "held", "path": str(folder / "domain.jsonl")}]},
        "expand": {"num_layers": 1}, "eval": {"max_tokens": 200, "copies_tokens": 100},
        "train": {"max_steps": 4, "batch_size": 2, "train_new_embeddings": True}, "unit_lr": {"update_every": 2}, **keys,
    }  # fmt: skip
    (output_dir.parent / "run.yaml").write_text(json.dumps(config))
    return output_dir.parent / "run.yaml"


@pytest.fixture(scope="module")
def with_tokens(inputs):
    """A model `new` with tokens of the text domain.jsonl."""
    text_models.write_jsonl(inputs / "domain.jsonl", text_models.sentences("domain", 40))
    write_tokens(inputs / "terms.txt", ["anaemia", "inherited", "symptom"])
    expand(inputs / "base", inputs / "terms.txt", inputs / "new")
    return inputs


@pytest.mark.parametrize("method", ["adept", "llama_pro", "lora", "top_k_layers"])
def test_a_run_trains_the_new_rows_and_keeps_the_others(method, with_tokens, tmp_path):
    config = run_config(with_tokens, tmp_path / "run", method=method, top_k_layers={"num_layers": 1})
    run_program("adept", "run", config)
    before, after = tensors_of(with_tokens / "new"), tensors_of(tmp_path / "run" / "model")
    table = TABLES[0]
    assert torch.equal(after[table][:OLD], before[table][:OLD])
    assert (after[table][OLD:] != before[table][OLD:]).any(1).all()
    record = "adept_added_tokens.json"
    assert filecmp.cmp(tmp_path / "run" / "model" / record, with_tokens / "new" / record, shallow=False)
    assert text_models.load(tmp_path / "run" / "model").config.vocab_size == OLD + 3
    if method == "adept":
        line = json.loads((tmp_path / "run" / "parameter_importance.jsonl").read_text().splitlines()[0])
        assert line["lr_weight"][f"{table}/new_tokens"] == 1
        further = ["--set", f"model={tmp_path / 'run' / 'model'}", "--set", f"output_dir={tmp_path / 'further'}", "--continue-data"]
        run_program("adept", "train", config, *further)
        assert not torch.equal(tensors_of(tmp_path / "further" / "model")[table], after[table])


def test_a_model_without_new_tokens_has_none_to_train(with_tokens, tmp_path):
    config = run_config(with_tokens, tmp_path / "run", model=str(with_tokens / "base"))
    for command in ("run", "config"):
        process = run_program("adept", command, config, check=False)
        assert process.returncode == 2
        assert says(process.stderr, "train.train_new_embeddings: found true, but ...base has no new tokens...adept expand-vocab")


def test_full_training_says_that_the_key_changes_nothing(with_tokens, tmp_path):
    process = run_program("adept", "run", run_config(with_tokens, tmp_path / "run", method="full"))
    assert says(process.stderr, "the method full does not use ...train.train_new_embeddings")

"""What users do wrong, and what they are told: where, what was found, what was expected, what to do."""

import gzip
import json
import pathlib
import shutil

import pytest
import text_models
from conftest import run_program, says
from safetensors.torch import load_file, save_file

USAGE, FAILED, NON_FINITE = 2, 1, 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = text_models.make_inputs(tmp_path_factory.mktemp("errors"))
    (folder / "empty.jsonl").write_text("")
    (folder / "short.jsonl").write_text('{"text":"a"}\n')
    (folder / "single.jsonl").write_text('{"text":"a"}\n' * 100)
    (folder / "brief.jsonl").write_text('{"text":"abcde"}\n')
    (folder / "bad.jsonl").write_text('{"text":"a b c"}\n{"txt": 3}\nnot json\n')
    (folder / "broken.jsonl").write_text('{"text":"a b c"}\nnot json\n')
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"abc" * 1000)[:30])
    (folder / "junk.gguf").write_bytes(b"not a gguf file at all")
    (folder / "folder").mkdir()
    run_program("adept", "probe", "--model", "base", "--data", "text.jsonl", "--out", "scores.json", cwd=folder)
    run_program("adept", "expand", "--model", "base", "--out", "expanded", "--after", "1", cwd=folder)
    shutil.copytree(folder / "base", folder / "misfit")
    shutil.copy(folder / "expanded" / "adept_expansion.json", folder / "misfit")
    return folder


@pytest.fixture
def base(inputs, tmp_path):
    """A copy of the model that a test can spoil."""
    return pathlib.Path(shutil.copytree(inputs / "base", tmp_path / "spoiled"))


def assert_fails(process, code, *messages):
    """Ends with `code`; the error is the last thing on standard error and says every one of `messages`."""
    assert process.returncode == code, process.stderr
    error = process.stderr.rpartition("error: ")[2]
    assert error, process.stderr
    for message in messages:
        assert says(error, message), error
    assert "what():" not in process.stderr and "please report" not in process.stderr
    assert process.stdout == ""


EVAL = ["eval", "--model", "base"]
TEXT = ["--data", "text.jsonl"]
PROBE = ["probe", "--model", "base", "--out", "new.json"]
EXPAND = ["expand", "--model", "base", "--out", "new"]
GENERATE = ["generate", "--model", "base", "--prompt"]
COMMAND_LINES = [
    # models
    (["eval", "--model", "some/model", *TEXT], USAGE,
     "some/model: ...neither a folder nor in the ...cache", "`hf download some/model`"),
    (["eval", "--model", "folder", *TEXT], FAILED, "folder: has no config.json; expected ...model folder"),
    (["eval", "--model", "text.jsonl", *TEXT], USAGE, "text.jsonl: is a file; expected a model folder"),
    # text
    (EVAL, USAGE, "adept eval: --data is required...adept eval --help"),
    ([*EVAL, "--data", "none.jsonl"], USAGE, 'source "none"', "none.jsonl: does not exist"),
    ([*EVAL, "--data", "no*.jsonl"], USAGE, "no*.jsonl: contains or matches no file of text", "\nText is read from .txt, .md"),
    ([*EVAL, "--data", "folder"], USAGE, "folder: contains or matches no file of text"),
    ([*EVAL, "--data", "a b=text.jsonl"], USAGE, 'found the name "a b"; expected 1 to 64 letters'),
    ([*EVAL, "--data", "x="], USAGE, "--data x=: ", "empty path", "[NAME=]PATH"),
    ([*EVAL, *TEXT, "--data", "./text.jsonl"], USAGE, '--data ./text.jsonl: the name "text"', "--data NAME=./text.jsonl"),
    ([*EVAL, "--data", "empty.jsonl"], FAILED, "empty: found no text; expected at least one document"),
    ([*EVAL, "--data", "short.jsonl"], FAILED, "short: found no token to predict", "expected longer documents"),
    ([*PROBE, "--data", "single.jsonl", "--seq-len", 16], FAILED, "single: found no token to predict"),
    (["dial", "--model", "expanded", "--general", "text.jsonl", "--domain", "single.jsonl", "--seq-len", 16, "--out", "new"],
     FAILED, "single: found no token to predict"),
    ([*EVAL, "--data", "bad.jsonl"], FAILED, 'bad.jsonl:2: missing field: found the keys "txt"', "on_bad_record"),
    ([*EVAL, "--data", "broken.jsonl"], FAILED, "broken.jsonl:2: ", "expected one JSON object per line"),
    ([*EVAL, *TEXT, "--text-field", "body"], FAILED, 'text.jsonl:1: missing field: found the keys "text"', '"body"'),
    ([*EVAL, "--data", "latin.txt"], FAILED, 'latin.txt:1: invalid UTF-8: ', 'after "caf"'),
    ([*EVAL, "--data", "cut.txt.gz"], FAILED, "cut.txt.gz: the gzip data end", "cut short"),
    # options
    ([*EVAL, *TEXT, "--dtype", "fp64"], USAGE, '--dtype: found "fp64"; expected auto, fp32 or bf16'),
    ([*EVAL, *TEXT, "--out", "a", "--out", "b"], USAGE, "adept eval: --out: found several values; expected one..."),
    ([*EVAL, *TEXT, "--seq-len", "1"], USAGE, '--seq-len: found "1"; expected a whole number from 2 to 1048576'),
    ([*EVAL, *TEXT, "--batch-size", "x"], USAGE, '--batch-size: found "x"; expected a whole number from 1 to'),
    ([*EVAL, *TEXT, "--max-tokens", "-1"], USAGE, "--max-tokens", "0 to"),
    ([*EVAL, *TEXT, "--stride", "-1"], USAGE, "--stride", "0 to"),
    ([*EVAL, *TEXT, "--seq-len", "16", "--stride", "17"], USAGE, "found --stride 17; expected at most 16"),
    ([*EVAL, *TEXT, "--packed", "--stride", "4"], USAGE, "found --packed and --stride 4; expected one of them"),
    ([*EVAL, *TEXT, "--no-document-mask"], USAGE, "found --no-document-mask without --packed; expected both"),
    ([*EVAL, *TEXT, "--out", "none/x.json"], FAILED, "none/x.json: cannot create", "create the folder"),
    ([*PROBE, *TEXT, "--method", "magic"], USAGE, '--method: found "magic"; expected one of mask_out, cumulative, '),
    ([*PROBE, *TEXT, "--method", "mask-out"], USAGE, "all. Did you mean mask_out?"),
    ([*PROBE, "--data", "short.jsonl"], USAGE, "short: found 1 tokens...; expected ...seq_len"),
    (["probe", "--model", "base", *TEXT], USAGE, "--out is required"),
    (["probe", "--model", "base", *TEXT, "--out", "none/x.json"], FAILED, "none/x.json: cannot create"),
    (["tokenize", "--model", "base"], USAGE, "found neither --text nor --data; expected"),
    (["tokenize", "--model", "base", "--text", "a", *TEXT], USAGE, "found both --text and --data"),
    (["tokenize", "--model", "base", "--text", "a\udcff"], USAGE, "--text: ", "invalid UTF-8", "at offset 1;"),
    (["tokenize", "--model", "base", "--data", "bad.jsonl", "--out", "new"], FAILED, "bad.jsonl:2: missing"),
    # layers
    (EXPAND, USAGE, "expected ...--importance FILE ...--layers K or --trainable SHARE", "--after 3,7,11 alone"),
    ([*EXPAND, "--layers", "2"], USAGE, "expected ...--importance FILE ...--layers K"),
    ([*EXPAND, "--importance", "scores.json"], USAGE, "expected ...--importance FILE ...--layers K"),
    ([*EXPAND, "--after", "1", "--layers", "1"], USAGE, "--after 3,7,11 alone"),
    ([*EXPAND, "--after", "1", "--method", "mask_out"], USAGE, "--after 3,7,11 alone"),
    ([*EXPAND, "--importance", "scores.json", "--layers", "1", "--strategy", "best"], USAGE,
     '--strategy: found "best"; expected lowest, cost_aware, uniform'),
    ([*EXPAND, "--importance", "scores.json", "--trainable", "lots"], USAGE, '--trainable: found "lots"; expected a share'),
    ([*EXPAND, "--importance", "scores.json", "--trainable", "1%"], USAGE, "trainable (expand.trainable, --trainable): found 1 %"),
    ([*EXPAND, "--importance", "scores.json", "--layers", "3", "--exclude", "1"], USAGE, "found 3; expected 1 to 2"),
    ([*EXPAND, "--importance", "scores.json", "--layers", "1", "--exclude", "7"], USAGE, "layers to exclude: found 7"),
    ([*EXPAND, "--importance", "scores.json", "--layers", "1", "--method", "fisher"], USAGE,
     "scores.json: found no scores of fisher; expected ...mask_out"),
    ([*EXPAND, "--importance", "scores.json", "--layers", "1", "--strategy", "gain_per_cost"], USAGE,
     "gain_per_cost ...`adept probe --method gain`; found mask_out"),
    ([*PROBE, *TEXT, "--layers", "4"], USAGE, "--layers: found 4; expected at most 3", "of base"),
    ([*PROBE, *TEXT, "--weights", "1,2"], USAGE, "--weights 1,2: found 2 numbers; expected ...1 sources"),
    ([*PROBE, *TEXT, "--weights", "0"], USAGE, '--weights 0: found "0"; expected a number above 0'),
    ([*PROBE, *TEXT, "--domain", "short.jsonl"], USAGE, "short: found 1 tokens...; expected ...seq_len"),
    ([*PROBE, *TEXT, "--seq-len", "4096"], USAGE, "text: found 1687 tokens...; expected ...seq_len, which is 4096"),
    ([*PROBE, *TEXT, "--data", "brief.jsonl"], USAGE, "brief: found 5 tokens...; expected ...seq_len"),
    ([*PROBE, *TEXT, "--domain", "brief.jsonl"], USAGE, "brief: found 5 tokens...; expected ...seq_len"),
    ([*PROBE, *TEXT, "--method", "gain"], USAGE, "--method gain without --domain"),
    ([*PROBE, *TEXT, "--method", "all", "--domain", "text.jsonl"], USAGE, "found --domain together with --method all"),
    ([*EXPAND, "--importance", "none.json", "--layers", "2"], FAILED, "none.json: cannot open for reading: No such file"),
    ([*EXPAND, "--importance", "text.jsonl", "--layers", "2"], FAILED, "text.jsonl: not valid JSON", "line 2"),
    ([*EXPAND, "--importance", "base/config.json", "--layers", "2"], FAILED, "not importance scores of `adept probe`"),
    ([*EXPAND, "--importance", "scores.json", "--layers", "9"], USAGE, "--layers: found 9; expected 1 to 3", "of base"),
    ([*EXPAND, "--importance", "scores.json", "--layers", "0"], USAGE, "--layers: found 0; expected 1 to 3", "of base"),
    ([*EXPAND, "--after", "99"], USAGE, "found 99; expected indices from 0 to 2...3 layers"),
    ([*EXPAND, "--after", "1,0"], USAGE, "found 0 after 1; expected ascending"),
    ([*EXPAND, "--after", "0,,1"], USAGE, 'found ""; expected layer indices'),
    ([*EXPAND, "--after", ""], USAGE, "adept expand: --after: found an empty value; expected one"),
    ([*EVAL, *TEXT, "--max-tokens="], USAGE, "adept eval: --max-tokens: found an empty value"),
    ([*EXPAND, "--after", "x"], USAGE, '--after x: found "x"; expected layer indices such as 3,7,11'),
    (["expand", "--model", "base", "--out", "base", "--after", "1"], USAGE, "--out base: ", "the model"),
    (["expand", "--model", "base", "--out", "expanded", "--after", "1"], FAILED, "expanded: already exists", "--force"),
    (["expand", "--model", "expanded", "--out", "new", "--importance", "scores.json", "--layers", "1"], USAGE,
     "--importance scores.json: found scores of a different model (3 layers,", "of expanded (4 layers", "adept probe"),
    # the dial
    (["dial", "--model", "base", "--general", "text.jsonl", "--domain", "text.jsonl", "--out", "new"], FAILED,
     "base: found no adept_expansion.json; expected "),
    (["dial", "--model", "expanded", "--general", "text.jsonl", "--domain", "none.jsonl", "--out", "new"], USAGE,
     "none.jsonl: does not exist"),
    (["dial", "--model", "expanded", "--general", "a b=text.jsonl", "--domain", "text.jsonl", "--out", "new"], USAGE,
     '--general a b=text.jsonl: found the name "a b"'),
    (["dial", "--model", "expanded", "--general", "text.jsonl", "--domain", "text.jsonl", "--out", "new",
      "--max-general-rise", "0.1", "--general-weight", "1"], USAGE, "both --max-general-rise and --general-weight"),
    (["dial", "--model", "expanded", "--general", "text.jsonl", "--domain", "text.jsonl", "--out", "expanded"], USAGE,
     "--out expanded: ", "the model"),
    (["dial", "--model", "expanded", "--alpha", "1", "--out", ".", "--force"], USAGE, "--out .: ", "expanded, which would be lost"),
    (["expand", "--model", "base", "--after", "1", "--out", ".", "--force"], USAGE, "--out .: ", "base, which would be lost"),
    (["expand", "--model", "base", "--after", "1", "--out", "text.jsonl", "--force"], FAILED, "--out text.jsonl: ", "not a model directory"),
    (["dial", "--model", "expanded", "--alpha", "2", "--out", "new"], USAGE, '--alpha 2: found "2"; expected a number from'),
    (["dial", "--model", "expanded", "--alpha", "1,1", "--out", "new"], USAGE, "--alpha 1,1: found 2 numbers; expected one"),
    (["dial", "--model", "expanded", "--alpha", "1", "--domain", "text.jsonl", "--out", "new"], USAGE,
     "found --alpha together with --general or --domain"),
    (["dial", "--model", "expanded", "--alpha", "1", "--per-copy", "--out", "new"], USAGE, "found --alpha together with --max"),
    (["dial", "--model", "misfit", "--alpha", "0", "--out", "new"], FAILED,
     "misfit: config.json ...3 layers...adept_expansion.json ...4"),
    (["dial", "--model", "expanded", "--out", "new"], USAGE, "--general and --domain", "--alpha"),
    (["dial", "--model", "expanded", "--general", "text.jsonl", "--domain", "text.jsonl", "--out", "new",
      "--max-general-rise", "nan"], USAGE, "--max-general-rise: found nan; expected a number"),
    (["dial", "--model", "expanded", "--general", "short.jsonl", "--domain", "text.jsonl", "--out", "new"], USAGE,
     "short: found 1 tokens...; expected ...seq_len, which is 512"),
    # generation
    ([*GENERATE, ""], USAGE, "prompt without tokens"),
    ([*GENERATE, "\udcc3"], USAGE, "--prompt: ", "invalid UTF-8", "at offset 0;"),
    ([*GENERATE, "a", "--temperature", "-1"], USAGE, "temperature is -1; expected 0 (greedy) or more"),
    ([*GENERATE, "a", "--top-p", "0"], USAGE, "top_p is 0; expected a number above 0, at most 1"),
    ([*GENERATE, "a", "--max-new-tokens", "-3"], USAGE, '--max-new-tokens: found "-3"; expected a whole number from 0 to'),
    ([*GENERATE, "a", "--seed", "x"], USAGE, '--seed: found "x"; expected a number'),
    # GGUF
    (["import-gguf", "--gguf", "junk.gguf", "--out", "new"], FAILED, 'junk.gguf: starts with "not "; expected "GGUF"'),
    (["import-gguf", "--gguf", "none.gguf", "--out", "new"], FAILED, "none.gguf: cannot open for reading"),
    (["import-gguf", "--gguf", "folder", "--out", "new"], FAILED, "folder: is a folder; expected a regular file"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, code, messages", [(row[0], row[1], row[2:]) for row in COMMAND_LINES])
def test_a_wrong_command_line_is_told(inputs, arguments, code, messages):
    before = sorted(inputs.rglob("*"))
    assert_fails(run_program("adept", *arguments, cwd=inputs, check=False), code, *messages)
    assert sorted(inputs.rglob("*")) == before, "nothing is left behind"


CONFIG = dict(
    model="base",
    output_dir="run",
    threads=1,
    seq_len=48,
    data={
        "train": [{"name": "t", "path": "text.jsonl"}],
        "general": [{"name": "g", "path": "text.jsonl"}],
        "eval": [{"name": "e", "path": "text.jsonl", "role": "domain"}],
    },
    expand={"num_layers": 2},
    train={"max_steps": 6, "batch_size": 2},
)


def with_data(part, path):
    sources = [{**source, "path": path} for source in CONFIG["data"][part]]
    return {"data": {**CONFIG["data"], part: sources}}


CONFIGS = [
    (dict(expand={"trainable": 0.01}), USAGE, "expand.trainable...found 1 %; expected at least"),
    (dict(expand={"num_layers": 3, "exclude": [0]}), USAGE,
     "expand.num_layers: found 3; expected at most 2", "minus those in expand.exclude"),
    (dict(expand={"num_layers": 1, "exclude": [3]}), USAGE, "expand.exclude: found 3; expected indices from 0 to 2"),
    (dict(method="top_k_layers", top_k_layers={"num_layers": 9}), USAGE, "top_k_layers.num_layers: found 9; expected at most 3"),
    (dict(train={"activation_checkpointing": "some"}), USAGE, 'found the string "some"; expected none, selective or full'),
    (dict(train={"activation_cache": -1}), USAGE, "train.activation_cache: found -1; expected a number"),
    (dict(method="lora", lora={"rank": 60000}), USAGE, "lora.rank: found 60000; expected at most"),
    (dict(method="lora", lora={"target_modules": ["qkv"]}), USAGE, 'lora.target_modules.0: found "qkv"; expected one of'),
    (dict(unit_lr={"factors": [{"units": "*.attn.*", "factor": 2}]}), USAGE, 'unit_lr.factors.0.units: found "*.attn.*"...no unit'),
    (dict(unit_lr={"factors": [{"units": "model.layers.0.*", "factor": 2}]}), USAGE, 'unit_lr.factors.0.units: found "model.layers.0.*"...no unit'),
    (dict(unit_lr={"factors": [{"units": "*/head.0", "factor": 2}]}), USAGE, 'found "*/head.0"', "unit_lr.by_head"),
    (dict(unit_lr={"factors": [{"units": "*", "factor": 0}]}), USAGE, "unit_lr.factors: found 0 for every unit"),
    (dict(unit_lr={"ffn_block_size": 100000}), USAGE, "unit_lr.ffn_block_size: found 100000; expected at most"),
    (dict(model="nowhere"), USAGE, "nowhere: ...neither a folder nor in the ...cache"),
    (dict(expand={"num_layers": 77}), USAGE, "expand.num_layers: found 77; expected at most 3...base"),
    (dict(expand={"after": [0, 77]}), USAGE, "expand.after: found 77; expected indices from 0 to 2...base has 3 layers"),
    (dict(output_dir="text.jsonl/x"), FAILED, "output_dir: text.jsonl/x cannot be created: Not a directory"),
    (with_data("train", "empty.jsonl"), USAGE, 'source "t" has 0 documents with 0 tokens; expected at least 2'),
    (with_data("general", "short.jsonl"), USAGE, "g: found 1 tokens...; expected ...seq_len"),
    (with_data("eval", "empty.jsonl"), FAILED, "e: found no text"),
    (with_data("eval", "none.jsonl"), USAGE, "none.jsonl: does not exist"),
    (dict(data={**CONFIG["data"], "general": []}), USAGE, "data.general: found nothing; expected general text"),
    (dict(data={**CONFIG["data"], "train": []}), USAGE, "data.train: "),
]  # fmt: skip


@pytest.mark.parametrize("change, code, messages", [(row[0], row[1], row[2:]) for row in CONFIGS])
def test_a_wrong_configuration_is_told(inputs, tmp_path, change, code, messages):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**CONFIG, "output_dir": str(tmp_path / "run"), **change}))
    process = run_program("adept", "run", config, cwd=inputs, check=False)
    assert_fails(process, code, *messages)


@pytest.mark.parametrize(
    "text, message", [("", "found an empty file; expected ...model, output_dir and data"),
                      ("model: [\n", "not valid YAML"), ("- 1\n", "expected")],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_told(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    assert_fails(run_program("adept", "run", "run.yaml", cwd=tmp_path, check=False), USAGE, "run.yaml", message)


def test_train_wants_an_expanded_model_before_it_reads_the_text(inputs, tmp_path):
    (tmp_path / "run.yaml").write_text(json.dumps({**CONFIG, "output_dir": str(tmp_path / "run")}))
    process = run_program("adept", "train", tmp_path / "run.yaml", cwd=inputs, check=False)
    assert_fails(process, FAILED, "base: found no adept_expansion.json", "adept expand --model base --out DIR")
    assert "tokenize" not in process.stderr


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def evaluate(model, inputs):
    return run_program("adept", "eval", "--model", model, "--data", "text.jsonl", cwd=inputs, check=False)


@pytest.mark.parametrize(
    "changes, messages",
    [
        ({"model_type": "gpt2"}, ['config.json: model_type..."gpt2"...llama, mistral, qwen2, qwen3']),
        (  # everything that is wrong at once
            {"rope_parameters": {"rope_type": "yarn", "factor": 2}, "hidden_act": "gelu", "quantization_config": {"bits": 4}},
            ['hidden_act is "gelu"', 'rope_parameters.rope_type is "yarn"', "quantization_config", "not implemented"],
        ),
        ({"hidden_size": 80}, ["shape ...config.json requires", "do not match this config.json"]),
        ({"num_hidden_layers": 9}, ["layers.3.input_layernorm.weight...missing...config.json"]),
        ({"vocab_size": 50}, ["model.embed_tokens.weight...[331, 72]...config.json...[50, 72]"]),
    ],
)
def test_a_model_that_cannot_be_computed_is_refused_by_name(inputs, base, changes, messages):
    edit_json(base / "config.json", **changes)
    assert_fails(evaluate(base, inputs), FAILED, *messages)


def test_damaged_files_of_a_model_are_told(inputs, base):
    weights = base / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert_fails(evaluate(base, inputs), FAILED, "model.safetensors: tensor", "cut short or corrupt")
    weights.unlink()
    assert_fails(evaluate(base, inputs), FAILED, "neither model.safetensors nor model.safetensors.index.json")
    (base / "pytorch_model.bin").write_bytes(b"x")
    assert_fails(evaluate(base, inputs), FAILED, "pytorch_model.bin, a pickle", "save_pretrained")
    weights.write_bytes(whole)
    tokenizer = (base / "tokenizer.json").read_text()
    edit_json(base / "tokenizer.json", normalizer={"type": "BertNormalizer"})
    assert_fails(evaluate(base, inputs), FAILED, 'normalizer.type is "BertNormalizer"; this build supports')
    (base / "tokenizer.json").unlink()
    assert_fails(evaluate(base, inputs), FAILED, "tokenizer.json: no such file", "transformers")
    (base / "tokenizer.json").write_text(tokenizer)
    (base / "config.json").write_text("{")
    assert_fails(evaluate(base, inputs), FAILED, "config.json: not valid JSON")


DAMAGES = [  # file, how its content changes, what is said
    ("config.json", lambda content: b"{", "config.json: not valid JSON: line 1, column 2: found the end of input; expected ...copy or download it again"),
    ("config.json", lambda content: content.replace(b":", b"", 1), "config.json: not valid JSON: line 2, column ...: found '['; expected ':'"),
    ("config.json", lambda content: content.replace(b"true", b"tru", 1) + b"x", "config.json: not valid JSON: line ...found ...download it again"),
    ("config.json", lambda content: b"", "config.json: not valid JSON: it is empty...download it again"),
    ("config.json", lambda content: b"[]", "config.json: found []; expected a JSON object"),
    ("tokenizer.json", lambda content: content[:100], "tokenizer.json: not valid JSON: line ...found ...download it again"),
    ("tokenizer_config.json", lambda content: content[:10], "tokenizer_config.json: not valid JSON: line 2, column ...: invalid string: missing closing quote in ...download it again"),
    ("model.safetensors", lambda content: content[:4], "model.safetensors: has 4 bytes; expected at least 8...cut short; download"),
    ("model.safetensors", lambda content: content[:20], "model.safetensors: the header's length ...only 12 follow...cut short; download"),
    ("model.safetensors", lambda content: content.replace(b":", b";", 1), "model.safetensors: the header is not valid JSON at byte ...corrupt; download"),
    ("model.safetensors", lambda content: b"", "model.safetensors: "),
]  # fmt: skip


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("damage", range(len(DAMAGES)))
def test_a_damaged_model_is_told_without_the_words_of_a_library(inputs, base, tmp_path, command, damage):
    name, change, message = DAMAGES[damage]
    (base / name).write_bytes(change((base / name).read_bytes()))
    (tmp_path / "run.yaml").write_text(json.dumps({**CONFIG, "model": str(base), "output_dir": str(tmp_path / "run")}))
    process = run_program("adept", command, tmp_path / "run.yaml", cwd=inputs, check=False)
    assert_fails(process, FAILED, message)
    for word in ("json.exception", "parse error", "syntax error", "last read"):
        assert word not in process.stderr
    assert not (tmp_path / "run").exists()


def test_weights_that_are_no_numbers_have_an_exit_code_of_their_own(inputs, base):
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, base / "model.safetensors")
    assert_fails(evaluate(base, inputs), NON_FINITE, "text: the loss is not finite", "weights are damaged")
    process = run_program("adept", "generate", "--model", base, "--prompt", "a", check=False)
    assert process.returncode == NON_FINITE and "logits are not finite" in process.stderr
    process = run_program("adept", "probe", "--model", base, *TEXT, "--out", "q.json", cwd=inputs, check=False)
    assert_fails(process, NON_FINITE, "importance of layer 0: the score is not finite")
    assert not list(inputs.glob("*q.json*"))
    shutil.copy(inputs / "expanded" / "adept_expansion.json", base)
    shutil.copy(inputs / "expanded" / "config.json", base)
    tensors = load_file(inputs / "expanded" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, base / "model.safetensors")
    texts = ["--general", "text.jsonl", "--domain", "text.jsonl", "--seq-len", "48"]
    process = run_program("adept", "dial", "--model", base, *texts, "--out", "dialed", cwd=inputs, check=False)
    assert_fails(process, NON_FINITE, "general text: ...loss ...not finite...weights")
    assert not (inputs / "dialed").exists()


def test_training_whose_loss_stays_non_finite_has_that_exit_code_too(inputs, tmp_path):
    model = pathlib.Path(shutil.copytree(inputs / "expanded", tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, model / "model.safetensors")
    config = {**CONFIG, "data": {**CONFIG["data"], "eval": []}, "model": str(model), "output_dir": str(tmp_path / "run"), "unit_lr": {"policy": "uniform"},
              "train": {"max_steps": 9, "max_nonfinite_steps": 2}}  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    process = run_program("adept", "train", tmp_path / "run.yaml", cwd=inputs, check=False)
    assert_fails(process, NON_FINITE, "2 consecutive steps up to step 2", "with a lower train.learning_rate")


@pytest.mark.parametrize("command", ["eval --data", "tokenize --data", "probe --out new.json --data", "dial --out new --general text.jsonl --domain"])
def test_a_path_without_text_is_told_before_the_model_is_read(inputs, command):
    name, *options = command.split()
    process = run_program("adept", name, "--model", "nowhere", *options, "none.jsonl", options[-1], "gone.txt", cwd=inputs, check=False)
    assert_fails(process, USAGE, "none.jsonl: does not exist", "gone.txt: does not exist")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_text_in_another_encoding_is_named_wherever_it_is_read(inputs, base, tmp_path, encoding):
    found, remedy = f"found {encoding[:6].upper()} text; expected UTF-8", f"iconv -f {encoding[:6].upper()} -t UTF-8 FILE > NEW"
    messages, config = tmp_path / "chat.json", tmp_path / "run.yaml"
    messages.write_bytes(json.dumps([{"role": "user", "content": "a"}]).encode(encoding))
    config.write_bytes("model: base\noutput_dir: run\n".encode(encoding))
    prompt = tmp_path / "prompt.txt"
    prompt.write_bytes("The patient".encode(encoding))
    generate = ("generate", "--model", base)
    (base / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert_fails(run_program("adept", *generate, "--prompt-file", prompt, check=False), USAGE, f"prompt.txt: {found}", remedy)
    assert_fails(run_program("adept", *generate, "--chat", "--messages", messages, check=False), FAILED, f"chat.json: {found}", remedy)
    assert_fails(run_program("adept", "config", config, check=False), USAGE, f"run.yaml: {found}", remedy)
    assert_fails(run_program("adept", "tokenize", "--model", base, "--data", prompt, check=False), FAILED, f"prompt.txt: {found}", remedy)
    for name in ("tokenizer_config.json", "config.json"):
        path = base / name
        path.write_bytes(path.read_text().encode(encoding))
        assert_fails(run_program("adept", "eval", "--model", base, "--data", inputs / "text.jsonl", check=False), FAILED, f"{name}: {found}", remedy)

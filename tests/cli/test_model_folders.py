"""Model folders as others write them: every command gives the same answer to the same folder."""

import json
import pathlib
import re
import shutil

import pytest
import text_models
from conftest import run_program, says
from safetensors.torch import load_file, save_file

VOCABULARY = 331


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = text_models.make_inputs(tmp_path_factory.mktemp("folders"))
    run_program("adept", "expand", "--model", "base", "--out", "expanded", "--after", "1", cwd=folder)
    return folder


def edit_json(path, **changes):
    """None removes a key."""
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def commands(model, inputs, out):
    """Each command on a copy of `expanded` with the edits, by name."""
    text, data = str(inputs / "text.jsonl"), ["--data", inputs / "text.jsonl"]
    config = {
        "model": str(model), "output_dir": str(out / "run"), "threads": 1, "seq_len": 48, "method": "full",
        "data": {"train": [{"name": "t", "path": text}], "eval": [{"name": "e", "path": text}]},
        "train": {"max_steps": 1, "batch_size": 1, "grad_accum": 1}, "eval": {"max_tokens": 100},
    }  # fmt: skip
    (out / "run.yaml").write_text(json.dumps(config))
    (out / "train.yaml").write_text(json.dumps({**config, "output_dir": str(out / "train")}))
    few = ["--max-tokens", "100", "--seq-len", "48", "--threads", "1"]
    return {
        "eval": ["eval", "--model", model, *data, *few],
        "eval packed": ["eval", "--model", model, *data, *few, "--packed"],
        "probe": ["probe", "--model", model, *data, *few, "--out", out / "scores.json"],
        "expand": ["expand", "--model", model, "--after", "0", "--out", out / "deeper"],
        "dial": ["dial", "--model", model, "--general", text, "--domain", text, *few, "--points", "2",
                 "--out", out / "dialed"],
        "generate": ["generate", "--model", model, "--prompt", "the", "--max-new-tokens", "2", "--threads", "1"],
        "tokenize": ["tokenize", "--model", model, "--text", "the"],
        "run": ["run", out / "run.yaml"],
        "train": ["train", out / "train.yaml"],
    }  # fmt: skip


PACKING = {"eval packed", "run", "train"}
USES_EOS = PACKING | {"generate"}
READS_CONFIG = {"eval", "eval packed", "probe", "expand", "dial", "generate", "run", "train"}

# (changes of config.json, of tokenizer_config.json, of generation_config.json), the commands that refuse, their message
SETTINGS = {
    "pad beyond the vocabulary": (dict(pad_token_id=VOCABULARY), dict(pad_token=None), {}, set(), ""),
    "pad -1": (dict(pad_token_id=-1), dict(pad_token=None), {}, set(), ""),
    "pad that no token is": ({}, dict(pad_token="<none>"), {}, set(), ""),
    "bos -1": (dict(bos_token_id=-1), dict(bos_token=None), {}, set(), ""),
    "bos that no token is": (dict(bos_token_id=VOCABULARY), dict(bos_token="<none>"), {}, set(), ""),
    "no eos": (dict(eos_token_id=None, bos_token_id=None), dict(eos_token=None), dict(eos_token_id=None), PACKING,
               "no EOS token; expected eos_token in tokenizer_config.json"),
    "eos that no token is": ({}, dict(eos_token="<none>"), {}, PACKING,
                             'eos_token is "<none>", which tokenizer.json does not have'),
    "eos beyond the vocabulary": (dict(eos_token_id=VOCABULARY), {}, {}, READS_CONFIG,
                                  f"eos_token_id...{VOCABULARY}; expected ...0 to {VOCABULARY - 1}"),
    "generation's eos beyond the vocabulary": ({}, {}, dict(eos_token_id=[2, VOCABULARY]), {"generate"},
                                               f"expected an integer from 0 to {VOCABULARY - 1}"),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_not_used_is_not_checked_and_the_rest_everywhere_alike(inputs, setting, tmp_path):
    config, tokenizer, generation, refusing, message = SETTINGS[setting]
    model = pathlib.Path(shutil.copytree(inputs / "expanded", tmp_path / "model"))
    if setting == "no eos":  # Llama's class has the default 2, which null takes away
        config = {**json.loads((model / "config.json").read_text()), "eos_token_id": None}
        (model / "config.json").write_text(json.dumps(config))
    else:
        edit_json(model / "config.json", **config)
    edit_json(model / "tokenizer_config.json", **tokenizer)
    if generation:
        edit_json(model / "generation_config.json", **generation)
    for name, arguments in commands(model, inputs, tmp_path).items():
        process = run_program("adept", *arguments, check=False)
        if name in refusing:
            assert process.returncode == 1 and says(process.stderr, message), (name, process.stderr)
        else:
            assert process.returncode == 0, (name, process.stderr)


def test_sequences_longer_than_the_model_was_made_for_are_warned_of_everywhere(inputs, tmp_path):
    model = pathlib.Path(shutil.copytree(inputs / "expanded", tmp_path / "model"))
    edit_json(model / "config.json", max_position_embeddings=32)
    for name, arguments in commands(model, inputs, tmp_path).items():
        process = run_program("adept", *arguments)
        warned = "seq_len 48 exceeds max_position_embeddings 32 of" in process.stderr
        assert warned == (name not in ("expand", "generate", "tokenize")), (name, process.stderr)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused_where_it_is_used(inputs, tmp_path):
    model = pathlib.Path(shutil.copytree(inputs / "expanded", tmp_path / "model"))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": VOCABULARY, "content": "the", "single_word": False, "lstrip": False,
                                      "rstrip": False, "normalized": False, "special": False})  # fmt: skip
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, arguments in commands(model, inputs, tmp_path).items():
        process = run_program("adept", *arguments, check=False)
        message = f"id {VOCABULARY}, ...vocabulary has {VOCABULARY} ids"
        refused = process.returncode == 1 and says(process.stderr, message)
        assert refused == (name not in ("expand", "tokenize")), (name, process.stderr)


def test_weights_and_configuration_that_do_not_match_are_refused_everywhere(inputs, tmp_path):
    for changes, message in [
        ({"attention_bias": True}, "self_attn.q_proj.bias is missing; config.json requires it"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing; config.json requires it"),
    ]:
        model = pathlib.Path(shutil.copytree(inputs / "expanded", tmp_path / "model", dirs_exist_ok=True))
        edit_json(model / "config.json", **changes)
        scale = ["dial", "--model", model, "--alpha", "0.5", "--out", tmp_path / "scaled"]
        for name, arguments in {**commands(model, inputs, tmp_path), "dial alpha": scale}.items():
            process = run_program("adept", *arguments, check=False)
            refused = process.returncode == 1 and says(process.stderr, message)
            assert refused == (name != "tokenize"), (name, process.stderr)


def test_a_prefix_of_all_names_is_named(inputs, tmp_path):
    model = pathlib.Path(shutil.copytree(inputs / "base", tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    save_file({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, model / "model.safetensors")
    process = run_program("adept", "eval", "--model", model, "--data", inputs / "text.jsonl", check=False)
    assert process.returncode == 1
    assert says(process.stderr, 'prefix "_orig_mod."..._orig_mod.model.embed_tokens.weight for')
    assert says(process.stderr, "torch.compile...model._orig_mod.")


def files_beside(folder):
    """All but weights, config.json and adept's own, relative."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not re.search(r"safetensors|^config.json$|^adept_", name)}


def test_expand_export_and_dial_keep_every_file_beside_the_weights(inputs, tmp_path):
    base = pathlib.Path(shutil.copytree(inputs / "base", tmp_path / "base"))
    added = ["additional_chat_templates/tool_use.jinja", "chat_template.jinja", "preprocessor_config.json", "LICENSE"]
    for name in added:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(f"{name} {{{{ x }}}}\n")
    (base / "onnx").mkdir()
    (base / "onnx" / "model.onnx").write_bytes(b"x")
    (base / "pytorch_model.bin").write_bytes(b"x")
    expected = files_beside(base) - {"onnx/model.onnx", "pytorch_model.bin"}
    process = run_program("adept", "expand", "--model", base, "--after", "1", "--out", tmp_path / "expanded")
    assert says(process.stderr, f"{base}: not copied ...onnx (another model)")
    arguments = commands(tmp_path / "expanded", inputs, tmp_path)
    run_program("adept", *arguments["train"])
    run_program("adept", "dial", "--model", tmp_path / "expanded", "--alpha", "0.5", "--out", tmp_path / "dialed")
    for folder in ("expanded", "train/model", "dialed"):
        assert files_beside(tmp_path / folder) == expected, folder
        for name in expected:
            assert (tmp_path / folder / name).read_bytes() == (base / name).read_bytes(), (folder, name)

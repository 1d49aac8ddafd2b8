"""Model folders in the spellings that others write, and exported models, against transformers and huggingface_hub."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import text_models
import torch
import transformers
from conftest import run_program
from safetensors.torch import load_file, save_file
from text_models import one_thread  # noqa: F401, an automatic fixture

SEQ_LEN = 48
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model_files")
    text_models.save("llama_tied", folder / "tied", max_shard_size="60KB")
    text_models.write_jsonl(folder / "text.jsonl", text_models.sentences("general", 12))
    return folder


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def join(model, change):
    """The shards as one file, whose tensors `change` edits."""
    tensors = {}
    for path in model.glob("model-*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (model / "model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def stored_as_its_head(model):
    """What safetensors.torch.save_model makes of a tied model: one name, the other one in the metadata."""
    tied = text_models.load(model)
    for path in [*model.glob("model-*.safetensors"), model / "model.safetensors.index.json"]:
        path.unlink()
    safetensors.torch.save_model(tied, str(model / "model.safetensors"), {"format": "pt"})
    assert HEAD in load_file(model / "model.safetensors") and EMBEDDINGS not in load_file(model / "model.safetensors")


def head_in_another_type(model):
    """The model in bf16, its head once more in fp32."""

    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(torch.bfloat16)
        tensors[HEAD] = tensors[EMBEDDINGS].float()

    join(model, change)
    edit_json(model / "config.json", lambda config: config.update(dtype="float32"))


def unlisted_head(model):
    """The head, which a tied model does not need, in a shard but not in the index."""
    shard = sorted(model.glob("model-*.safetensors"))[0]
    tensors = load_file(shard)
    assert EMBEDDINGS in tensors
    save_file({**tensors, HEAD: tensors[EMBEDDINGS].clone()}, shard, {"format": "pt"})


INDEX = "model.safetensors.index.json"
SPELLINGS = {
    "stored as its head": stored_as_its_head,
    "head in another type": head_in_another_type,
    "unlisted head": unlisted_head,
    "stale total size": lambda model: edit_json(model / INDEX, lambda index: index["metadata"].update(total_size=1)),
    "unlisted tensors": lambda model: edit_json(
        model / INDEX, lambda index: [index["weight_map"].pop(f"model.layers.{l}.input_layernorm.weight") for l in (0, 1)]
    ),
    "keys without effect": lambda model: edit_json(
        model / "config.json",
        lambda config: config.update(max_sequence_length=2048, sliding_window=None, use_sliding_window=False,
                                     pad_token_id=-1, resid_pdrop=0.0, num_experts=None, gradient_checkpointing=True),
    ),
}  # fmt: skip


def loss_of(model, text):
    """Mean over the tokens, each document alone."""
    total = tokens = 0
    for line in text.read_text().splitlines():
        for ids, first in text_models.windows([text_models.encode(json.loads(line)["text"])], SEQ_LEN):
            with torch.no_grad():
                logits = model(torch.tensor([ids]), use_cache=False).logits[0, first - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids[first:]), reduction="sum").item()
            tokens += len(ids) - first
    return total / tokens


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_is_the_same_model(spelling, inputs, tmp_path):
    """By its loss, in transformers and here; also after an expansion, whose copies change nothing."""
    model = pathlib.Path(shutil.copytree(inputs / "tied", tmp_path / "model"))
    SPELLINGS[spelling](model)
    expected = loss_of(text_models.load(model, torch.float32), inputs / "text.jsonl")
    run_program("adept", "expand", "--model", model, "--after", "1", "--out", tmp_path / "expanded")
    expanded = text_models.load(tmp_path / "expanded", torch.float32)
    assert loss_of(expanded, inputs / "text.jsonl") == pytest.approx(expected, rel=1e-6)
    for folder in (model, tmp_path / "expanded"):
        run_program("adept", "eval", "--model", folder, "--data", inputs / "text.jsonl", "--seq-len", SEQ_LEN,
                    "--dtype", "fp32", "--out", tmp_path / "out.json")  # fmt: skip
        found = json.loads((tmp_path / "out.json").read_text())["datasets"]["text"]["loss"]
        assert found == pytest.approx(expected, rel=2e-6)


def stored_tensors(folder):
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def train(inputs, model, out, *settings):
    config = {
        "model": str(model), "output_dir": str(out), "threads": 1, "seq_len": 16, "method": "full",
        "data": {"train": [{"name": "t", "path": str(inputs / "text.jsonl")}]},
        "train": {"max_steps": 2, "batch_size": 2, "grad_accum": 1, "learning_rate": 1e-3},
    }  # fmt: skip
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(config))
    return run_program("adept", "train", path, *itertools.chain(*(("--set", setting) for setting in settings)))


TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


EXPORTS = [
    *itertools.product(["fp32", "bf16", "fp16", "mixed"], ["auto", "fp32", "bf16"], ["full"]),
    *itertools.product(["fp32", "mixed"], ["auto", "bf16"], ["top_k_layers", "lora"]),
]


@pytest.mark.parametrize("stored, wanted, method", EXPORTS)
def test_transformers_loads_exactly_the_tensors_that_were_exported(stored, wanted, method, inputs, tmp_path):
    """from_pretrained as it is called, without a dtype: it must find the tensors' values, not round some in silence."""
    model = text_models.save("llama", tmp_path / "model", dtype=TYPES.get(stored, torch.bfloat16))
    if stored == "mixed":  # norms in fp32, and a configuration that says bfloat16
        tensors = load_file(model / "model.safetensors")
        for name in tensors:
            if "norm" in name:
                tensors[name] = tensors[name].float() * 1.0001
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
    settings = [f"export_dtype={wanted}", f"method={method}", "top_k_layers.num_layers=1"]
    process = train(inputs, model, tmp_path / "run", *settings)
    out = tmp_path / "run" / "model"
    exported = stored_tensors(out)
    types = {tensor.dtype for tensor in exported.values()}
    if wanted != "auto":
        assert types == {TYPES[wanted]}
    else:
        assert types == ({torch.float32, torch.bfloat16} if stored == "mixed" else {TYPES[stored]})
    config = json.loads((out / "config.json").read_text())
    named = config.get("dtype", config.get("torch_dtype"))
    assert named == ("float32" if len(types) > 1 else str(*types).removeprefix("torch."))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert loaded.keys() == exported.keys()
    for name, tensor in exported.items():
        assert torch.equal(loaded[name].double(), tensor.double()), name
    is_rounded = wanted == "bf16" or (wanted == "auto" and stored != "fp32")
    assert ("export rounds to " in process.stderr) == is_rounded, process.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"HUGGINGFACE_HUB_CACHE": "{place}/a"},
        {"HUGGINGFACE_HUB_CACHE": "{place}/a", "HF_HUB_CACHE": "{place}/b"},
        {"HF_HUB_CACHE": "$PLACE/b"},
        {"HF_HUB_CACHE": "${{PLACE}}/b/$NOT_SET/c"},
        {"HF_HUB_CACHE": "~/b"},
        {"HF_HUB_CACHE": "~root/b"},
        {"HF_HOME": "$PLACE/c"},
        {"HF_HOME": "~/c", "XDG_CACHE_HOME": "{place}/d"},
        {"XDG_CACHE_HOME": "$PLACE/d"},
        {},
        {"HOME": None},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(variables, tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    given = {key: value and value.format(place=tmp_path) for key, value in variables.items()}
    environment = {**kept, "HOME": str(tmp_path / "home"), "PLACE": str(tmp_path), **given}
    environment = {key: value for key, value in environment.items() if value is not None}
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    command = [sys.executable, "-c", program]
    expected = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    process = run_program("adept", "tokenize", "--model", "org/name", "--text", "a", env=environment, check=False)
    assert f"cache ({expected.stdout.strip()}/models--org--name)" in process.stderr, process.stderr

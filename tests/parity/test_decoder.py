"""The decoder against transformers: logits, loss, gradients, generation, files."""

import itertools
import json
import math
import os
import pathlib
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import tiny_models
from conftest import ASSETS, run_program

# Largest error relative to the largest value of a tensor.
FP32_VALUES, FP32_GRADIENTS = 2e-4, 1e-3
# bf16 keeps 8 bits: two correct programs that round at other places differ by about as much as either differs from
# fp32. So the error of ours against fp32 may be at most this many times that of transformers in bf16.
BF16_FACTOR = 1.5
# ... and for gradients, some of which transformers happens to round exactly, 2 % of their size on top.
BF16_GRADIENT_FLOOR = 0.02
DEVICE = os.environ.get("ADEPT_TEST_DEVICE", "cpu")  # of our side; the peer computes on the CPU


def relative_error(found, expected):
    found, expected = found.double(), expected.double()
    assert found.shape == expected.shape
    error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    return error.item() if torch.isfinite(error) else float("inf")


def root_mean_square_error(found, expected):
    found, expected = found.double(), expected.double()
    error = ((found - expected).square().mean() / expected.square().mean()).sqrt()
    return error.item() if torch.isfinite(error) else float("inf")


def run_ours(directory, ids, targets, folder, *arguments, threads=1, **inputs):
    """decoder_tool's tensors; tiny models are fastest with one thread."""
    given, made = folder / "input.safetensors", folder / "output.safetensors"
    save_file({"ids": ids, "targets": targets, **inputs}, given)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    run_program("decoder_tool", directory, given, made, "--device", DEVICE, *arguments, env=environment)
    return load_file(made)


def run_peer(model, ids, targets, gradients=True, **inputs):
    """The same tensors from transformers; the loss is written out, in fp32."""
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False, **inputs).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    result = {
        "logits": logits.detach(),
        "token_losses": losses.detach().view(ids.shape),
        "loss_sum": losses.sum().detach(),
    }
    if gradients:
        losses.sum().backward()
        result |= {f"grad.{name}": parameter.grad.clone() for name, parameter in model.named_parameters()}
    return result


@pytest.mark.parametrize("name", tiny_models.TINY_MODELS)
def test_tiny_model_equals_transformers_in_fp32(name, tmp_path):
    model = tiny_models.build(name)
    directory = tiny_models.save(name, model, tmp_path / "model")
    ids, targets = tiny_models.random_batch(model.config.vocab_size)
    ours = run_ours(directory, ids, targets, tmp_path, "--gradients")
    peer = run_peer(model, ids, targets)
    assert set(ours) == set(peer)
    for key in peer:
        limit = FP32_GRADIENTS if key.startswith("grad.") else FP32_VALUES
        assert relative_error(ours[key], peer[key]) <= limit, key


def documents(ids, cuts):
    """Two documents in each row, cut in turns at one of `cuts`: for us, and for transformers, which lets no token see what is
    before where positions start again."""
    columns = torch.arange(ids.size(1), dtype=torch.int32)
    starts = torch.stack([torch.where(columns < cut, 0, cut) for cut in cuts])
    starts = starts[torch.arange(ids.size(0)) % len(cuts)].int().contiguous()
    return {"document_starts": starts}, {"position_ids": (columns - starts).long()}


@pytest.mark.parametrize("name", tiny_models.TINY_MODELS)
def test_documents_of_one_row_equal_those_of_transformers(name, tmp_path):
    model = tiny_models.build(name)
    directory = tiny_models.save(name, model, tmp_path / "model")
    ids, targets = tiny_models.random_batch(model.config.vocab_size)
    own_inputs, inputs = documents(ids, (9, 14))
    ours = run_ours(directory, ids, targets, tmp_path, "--gradients", **own_inputs)
    peer = run_peer(model, ids, targets, **inputs)
    apart = run_peer(model, ids, targets, gradients=False)
    assert relative_error(apart["logits"], peer["logits"]) > 100 * FP32_VALUES, "the documents should matter"
    for key in peer:
        limit = FP32_GRADIENTS if key.startswith("grad.") else FP32_VALUES
        assert relative_error(ours[key], peer[key]) <= limit, key


@pytest.mark.parametrize("name", tiny_models.with_every_architecture(
    "llama_biases", "llama3_scaling", "mistral_sliding", "qwen2_max_window_layers", "qwen3_layer_types", "granite",
    "granite_biases_tied", "phi3_longrope_long"))  # fmt: skip
@pytest.mark.parametrize("cuts", [(), (9, 14)], ids=["rows", "documents"])
def test_tiny_model_in_bf16_is_as_near_to_fp32_as_transformers(name, cuts, tmp_path):
    model = tiny_models.build(name).to(torch.bfloat16)
    directory = tiny_models.save(name, model, tmp_path / "model")
    ids, targets = tiny_models.random_batch(model.config.vocab_size, rows=8)
    own_inputs, inputs = documents(ids, cuts) if cuts else ({}, {})
    ours = run_ours(directory, ids, targets, tmp_path, "--gradients", "--dtype", "bf16", **own_inputs)
    peer = run_peer(model, ids, targets, **inputs)
    exact = run_peer(model.float(), ids, targets, **inputs)
    assert ours["logits"].dtype == torch.bfloat16
    for key in ("logits", "token_losses"):
        assert root_mean_square_error(ours[key], exact[key]) <= BF16_FACTOR * root_mean_square_error(
            peer[key], exact[key]
        ), key
    # Of one tensor it is luck: the gradient of a key bias is a difference of nearly equal sums. So of all layers.
    kinds = {}
    for key in exact:
        if key.startswith("grad."):
            kinds.setdefault(re.sub(r"layers\.\d+", "layers.*", key), []).append(key)
    for kind, keys in kinds.items():

        def error_of(gradients):
            return math.sqrt(sum(root_mean_square_error(gradients[key], exact[key]) ** 2 for key in keys) / len(keys))

        assert error_of(ours) <= BF16_GRADIENT_FLOOR + BF16_FACTOR * error_of(peer), kind


@pytest.mark.parametrize("name", tiny_models.with_every_architecture(
    "llama_tied", "mistral_sliding", "qwen2_max_window_layers", "qwen3_layer_types", "granite_biases_tied", "phi3",
    "phi3_longrope_long"))  # fmt: skip
@pytest.mark.parametrize("flag", [(), ("--no-cache",)])
def test_greedy_generation_equals_transformers(name, flag, tmp_path):
    model = tiny_models.build(name)
    directory = tiny_models.save(name, model, tmp_path / "model")
    ids, targets = tiny_models.random_batch(model.config.vocab_size, rows=1, columns=12)
    ids = ids[:, :4].contiguous()
    ours = run_ours(directory, ids, targets[:, :4].contiguous(), tmp_path, "--generate", 40, *flag)
    # With a cache transformers 5.18 forgets the tokens in it where longrope changes to its long factors.
    use_cache = name != "phi3_longrope_long"
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, use_cache=use_cache)
    assert ours["generated"].tolist() == expected[0, 4:].tolist()


@pytest.mark.parametrize("name, dtype", list(zip(
    tiny_models.with_every_architecture("llama_biases", "llama_tied", "mistral", "qwen2", "qwen3_layer_types"),
    itertools.cycle([torch.float32, torch.bfloat16, torch.float16]))))  # fmt: skip
def test_saving_keeps_every_byte(name, dtype, tmp_path):
    model = tiny_models.build(name, dtype=dtype)
    directory = tiny_models.save(name, model, tmp_path / "model", max_shard_size="100KB")
    ids, targets = tiny_models.random_batch(model.config.vocab_size)
    run_ours(directory, ids, targets, tmp_path, "--save", tmp_path / "saved", "--dtype", "bf16")
    before = {key: value for path in directory.glob("*.safetensors") for key, value in load_file(path).items()}
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert set(before) == set(after)
    for key, value in before.items():
        assert after[key].dtype == dtype and after[key].shape == value.shape
        assert torch.equal(after[key].view(torch.uint8), value.view(torch.uint8)), key
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == json.loads(
        (directory / "config.json").read_text()
    )
    assert list(json.loads((tmp_path / "saved" / "config.json").read_text())) == list(
        json.loads((directory / "config.json").read_text())
    )
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_bypassed_layers_are_the_identity(tmp_path):
    model = tiny_models.build("llama")
    directory = tiny_models.save("llama", model, tmp_path / "model")
    ids, targets = tiny_models.random_batch(model.config.vocab_size)
    ours = run_ours(directory, ids, targets, tmp_path, "--bypass", "1")
    del model.model.layers[1]
    peer = run_peer(model, ids, targets, gradients=False)
    for key in peer:
        assert relative_error(ours[key], peer[key]) <= FP32_VALUES, key


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf):
    """The real SmolLM2 as a Hugging Face directory, made once by transformers' own reader of GGUF."""
    directory = ASSETS / "smollm2-hf"
    if not (directory / "config.json").is_file():
        config = transformers.AutoConfig.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
        model = transformers.AutoModelForCausalLM.from_config(config)
        tensors = load_gguf_checkpoint(str(smollm2_gguf), return_tensors=True, model_to_load=model)["tensors"]
        missing = model.load_state_dict(tensors, strict=False)
        assert missing.missing_keys in ([], ["lm_head.weight"]) and not missing.unexpected_keys
        temporary = pathlib.Path(f"{directory}.tmp")
        model.save_pretrained(temporary)
        temporary.rename(directory)
    return directory


def test_smollm2_equals_transformers_in_fp32(smollm2, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    ids, targets = tiny_models.random_batch(model.config.vocab_size, rows=1, columns=23)
    ours = run_ours(smollm2, ids, targets, tmp_path, "--gradients", threads=2)
    peer = run_peer(model, ids, targets)
    assert set(ours) == set(peer)
    for key in peer:
        limit = FP32_GRADIENTS if key.startswith("grad.") else FP32_VALUES
        assert relative_error(ours[key], peer[key]) <= limit, key


def test_gemma3_equals_transformers_in_fp32(gemma3_gguf, tmp_path):
    directory = tmp_path / "gemma3"
    run_program("adept", "import-gguf", "--gguf", gemma3_gguf, "--out", directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids, targets = tiny_models.random_batch(model.config.vocab_size, rows=1, columns=23)
    ours = run_ours(directory, ids, targets, tmp_path, "--gradients", threads=2)
    peer = run_peer(model, ids, targets)
    (directory / "model.safetensors").unlink()
    assert set(ours) == set(peer)
    for key in peer:
        limit = FP32_GRADIENTS if key.startswith("grad.") else FP32_VALUES
        assert relative_error(ours[key], peer[key]) <= limit, key


def test_smollm2_in_bf16_is_as_near_to_fp32_as_transformers(smollm2, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    ids, targets = tiny_models.random_batch(model.config.vocab_size, rows=5, columns=33)
    targets = ids.roll(-1, 1)  # every position has one
    exact = run_peer(model, ids, targets, gradients=False)
    peer = run_peer(model.to(torch.bfloat16), ids, targets, gradients=False)
    ours = run_ours(smollm2, ids, targets, tmp_path, "--dtype", "bf16", threads=2)

    def logit_errors(found):
        """Relative, (rows, columns)."""
        wide = exact["logits"].double()
        return ((found["logits"].double() - wide).square().mean(-1) / wide.square().mean(-1)).sqrt()

    def loss_errors(found):
        return (found["token_losses"].double() - exact["token_losses"].double()).abs()

    # Of one position it is luck: after some tokens a rounding grows to a quarter of the logits in either program.
    for errors_of in (logit_errors, loss_errors):
        found, expected = errors_of(ours), errors_of(peer)
        for part in (0.5, 0.9):
            assert found.quantile(part) <= BF16_FACTOR * expected.quantile(part), (errors_of, part)
        by_column = found.median(0).values.max(), expected.median(0).values.max()
        assert by_column[0] <= BF16_FACTOR * by_column[1], (errors_of, by_column)

"""GGUF import of weights against the `gguf` package and transformers, and the messages of the command."""

import itertools
import json

import gguf
import numpy
import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny_models
from gguf_files import (
    BLOCK_TYPES, LAYER_NAMES, NOT_IN_GGUF, Type, assert_same_bits, simple_tokenizer, write_gguf, write_model,
    write_tiny_llama)  # fmt: skip


@pytest.mark.parametrize("name", [
    name for name in tiny_models.TINY_MODELS if name not in NOT_IN_GGUF and not name.endswith("old_spelling")])  # fmt: skip
def test_an_imported_model_computes_what_the_original_does(name, adept, tmp_path):
    original = tiny_models.build(name)
    with torch.no_grad():  # gains that survive the 1 that is added to them
        for key, parameter in original.named_parameters():
            if tiny_models.TINY_MODELS[name].gain_offset and "norm" in key:
                parameter.copy_((parameter * 1024).round() / 1024 + 0.0)  # no -0
    adept("import-gguf", "--gguf", write_model(tmp_path / "tiny.gguf", original), "--out", tmp_path / "out")
    imported = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation=original.config._attn_implementation).eval()
    assert type(imported) is type(original)
    expected = original.state_dict()
    found = imported.state_dict()
    assert sorted(found) == sorted(expected)
    for key, tensor in expected.items():
        assert_same_bits(found[key], tensor, key)
    ids, _ = tiny_models.random_batch(original.config.vocab_size, columns=90)
    with torch.no_grad():
        difference = (imported(ids).logits - original(ids).logits).abs().max()
    assert difference == 0, "the same weights and the same configuration give the same logits"


def random_blocks(block_type, rows, columns, generator):
    """Random bytes; the fp16 scales inside are finite, of both signs, some tiny."""
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[block_type]
    blocks = generator.integers(0, 256, (rows, columns // block_elements, block_bytes), dtype=numpy.uint8)
    scale_offsets = {Type.Q4_1: [0, 2], Type.Q5_1: [0, 2], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
    for offset in scale_offsets.get(block_type, [0]):
        exponents = generator.uniform(-26, 2, blocks.shape[:2])
        signs = generator.choice([-1.0, 1.0], blocks.shape[:2])
        values = (signs * 2.0**exponents).astype(numpy.float16)
        if block_type == Type.BF16:
            values = (generator.normal(size=blocks.shape[:2]).astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)
        blocks[:, :, offset : offset + 2] = values[:, :, None].view(numpy.uint8)
    return blocks.reshape(rows, -1)


@pytest.fixture(scope="module")
def every_type(adept, tmp_path_factory):
    """(imported weights, source tensors by Hugging Face name, folder) of a Qwen 3 whose tensors have all types."""
    folder = tmp_path_factory.mktemp("types")
    generator = numpy.random.default_rng(4)
    types = itertools.cycle([Type.F32, Type.F16, *BLOCK_TYPES])
    vocabulary, size, layers = 288, 256, 2
    shapes = {"token_embd.weight": (vocabulary, size), "output.weight": (vocabulary, size)}
    names = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight",
             "output_norm.weight": "model.norm.weight"}
    tensors = {"output_norm.weight": numpy.ones(size, numpy.float32)}
    for layer in range(layers):
        for hf_name, name in LAYER_NAMES.items():
            names[f"blk.{layer}.{name}.weight"] = f"model.layers.{layer}.{hf_name}.weight"
            if "norm" in name:
                tensors[f"blk.{layer}.{name}.weight"] = generator.normal(size=64 if "_q_" in name or "_k_" in name else size).astype(numpy.float32)
            else:
                shapes[f"blk.{layer}.{name}.weight"] = (size, size)
    used = set()
    for name, shape in shapes.items():
        block_type = next(types)
        used.add(block_type)
        if block_type == Type.F32:
            tensors[name] = generator.normal(size=shape).astype(numpy.float32)
        elif block_type == Type.F16:
            tensors[name] = generator.normal(size=shape).astype(numpy.float16)
        else:
            tensors[name] = (random_blocks(block_type, *shape, generator), block_type)
    assert used == {Type.F32, Type.F16, *BLOCK_TYPES}
    metadata = {"block_count": layers, "context_length": 64, "embedding_length": size, "feed_forward_length": size,
                "attention.head_count": 4, "attention.head_count_kv": 4, "attention.key_length": 64,
                "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6}
    write_gguf(folder / "types.gguf", "qwen3", metadata, tensors, simple_tokenizer(vocabulary))
    expected = {names[tensor.name]: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
                for tensor in gguf.GGUFReader(folder / "types.gguf").tensors}
    adept("import-gguf", "--gguf", folder / "types.gguf", "--out", folder / "fp32")
    return load_file(folder / "fp32" / "model.safetensors"), expected, folder


def test_every_type_is_dequantised_bit_for_bit(every_type):
    found, expected, _ = every_type
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert_same_bits(found[name], tensor, name)


@pytest.mark.parametrize("dtype, torch_dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_narrow_weights_are_rounded_as_torch_rounds(every_type, adept, dtype, torch_dtype):
    _, expected, folder = every_type
    adept("import-gguf", "--gguf", folder / "types.gguf", "--out", folder / dtype, "--dtype", dtype)
    found = load_file(folder / dtype / "model.safetensors")
    for name, tensor in expected.items():
        assert_same_bits(found[name], tensor.to(torch_dtype), name)
    assert json.loads((folder / dtype / "config.json").read_text())["torch_dtype"] == str(torch_dtype).split(".")[1]


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_reports_and_refuses(adept, tmp_path):
    path = write_tiny_llama(tmp_path / "tiny.gguf", simple_tokenizer(262), 262)
    out = tmp_path / "out"
    process = adept("import-gguf", "--gguf", path, "--out", out)
    assert "llama, 1 layers, 1,172 parameters as fp32, vocabulary 262, pre-tokenizer smollm" in process.stdout
    again = adept("import-gguf", "--gguf", path, "--out", out, check=False)
    assert again.returncode == 1 and str(out) in again.stderr
    adept("import-gguf", "--gguf", path, "--out", out, "--force")
    missing = adept("import-gguf", "--gguf", tmp_path / "none.gguf", "--out", tmp_path / "other", check=False)
    assert missing.returncode == 1 and "none.gguf" in missing.stderr
    assert adept("import-gguf", "--gguf", path, "--out", out, "--dtype", "int8", check=False).returncode == 2
    assert adept("import-gguf", "--gguf", path, check=False).returncode == 2
    path.write_bytes(path.read_bytes()[:-200])
    short = adept("import-gguf", "--gguf", path, "--out", tmp_path / "other", check=False)
    assert short.returncode == 1 and "tiny.gguf" in short.stderr and not (tmp_path / "other").exists()


def test_tokenize_prints_one_list_a_document(adept, tmp_path):
    path = write_tiny_llama(tmp_path / "tiny.gguf", simple_tokenizer(262), 262)
    model = tmp_path / "out"
    adept("import-gguf", "--gguf", path, "--out", model)
    reference = transformers.AutoTokenizer.from_pretrained(model)
    assert adept("tokenize", "--model", model, "--text", "a 1\n").stdout == f"{reference('a 1' + chr(10))['input_ids']}\n"
    assert adept("tokenize", "--model", model, "--text", "").stdout == "[]\n"
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    adept("tokenize", "--model", model, "--data", tmp_path / "lines.txt", "--txt-record", "line", "--out",
          tmp_path / "ids.jsonl")
    assert (tmp_path / "ids.jsonl").read_text() == "".join(f"{reference(text)['input_ids']}\n" for text in ["one", "two"])
    neither = adept("tokenize", "--model", model, check=False)
    assert neither.returncode == 2 and "found neither --text nor --data" in neither.stderr
    both = adept("tokenize", "--model", model, "--text", "a", "--data", "x.txt", check=False)
    assert both.returncode == 2 and "found both --text and --data" in both.stderr

"""GGUF import of real files, where they are there, against transformers."""

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.integrations.gguf.reader import read_gguf_metadata

from gguf_files import GEMMA_TEXTS, TEXTS, assert_same_bits, ids_of_adept, original_parts


def imported(gguf_file, adept, tmp_path_factory):
    """The file and the model imported from it, whose weights are removed in the end."""
    folder = tmp_path_factory.mktemp("imported") / "model"
    adept("import-gguf", "--gguf", gguf_file, "--out", folder)
    yield gguf_file, folder
    (folder / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf, adept, tmp_path_factory):
    yield from imported(smollm2_gguf, adept, tmp_path_factory)


@pytest.fixture(scope="module")
def gemma3(gemma3_gguf, adept, tmp_path_factory):
    yield from imported(gemma3_gguf, adept, tmp_path_factory)


def check_against_transformers(path, folder, num_tensors, own_key):
    """Tensors and configuration, of which `own_key` is a key that not every architecture has. Returns the configuration."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    expected = transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint(path, return_tensors=True,
                                                                             model_to_load=model)
    found = load_file(folder / "model.safetensors")
    assert sorted(found) == sorted(expected["tensors"]) and len(found) == num_tensors
    for name, tensor in expected["tensors"].items():
        assert_same_bits(found[name], tensor, name)
    for key in ["num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size", "vocab_size",
                "num_attention_heads", "num_key_value_heads", "head_dim", own_key, "bos_token_id", "eos_token_id",
                "pad_token_id"]:
        assert getattr(config, key) == expected["config"][key], key
    return config


def test_the_real_file_equals_the_dequantisation_of_transformers(smollm2):
    config = check_against_transformers(*smollm2, 272, "tie_word_embeddings")
    assert config.model_type == "llama" and config.rms_norm_eps == 1e-5
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 100000.0}


def test_the_real_gemma_equals_the_dequantisation_of_transformers(gemma3):
    config = check_against_transformers(*gemma3, 236, "sliding_window")
    published = transformers.Gemma3TextConfig(  # google/gemma-3-270m, config.json
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, max_position_embeddings=32768, sliding_window=512,
        query_pre_attn_scalar=256)  # fmt: skip
    for key in published.to_dict():
        if key not in ("architectures", "dtype", "transformers_version", "pad_token_id", "_sliding_window_pattern", "_name_or_path"):
            assert getattr(config, key) == getattr(published, key), key
    assert config.model_type == "gemma3_text" and config.layer_types[5::6] == ["full_attention"] * 3


def test_the_real_model_chats_as_transformers_does(smollm2, adept):
    _, folder = smollm2
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Which city is the capital of France?"}],
                                        add_generation_prompt=True, return_tensors="pt", return_dict=False)  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    assert made.shape[1] < ids.shape[1] + 24  # the answer ends with the token that ends a turn
    text = adept("generate", "--model", folder, "--chat", "--prompt", "Which city is the capital of France?",
                 "--max-new-tokens", 24, "--temperature", 0, "--dtype", "fp32", "--special-tokens").stdout  # fmt: skip
    assert text == tokenizer.decode(made[0]) + "\n"


def test_the_real_tokenizer_splits_digits_one_by_one(smollm2, adept, tmp_path):
    path, folder = smollm2
    imported = transformers.AutoTokenizer.from_pretrained(folder)
    ids = imported("In 2024, 12345 cats")["input_ids"]
    assert imported.convert_ids_to_tokens(ids) == ["In", "Ġ", *"2024", ",", "Ġ", *"12345", "Ġcats"]
    keys = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    metadata, _ = read_gguf_metadata(path, keys)  # GGUFReader takes seconds for these
    tokens, merges = (metadata[key] for key in keys)
    model = tokenizers.models.BPE({token: index for index, token in enumerate(tokens)},
                                  [tuple(merge.split(" ")) for merge in merges])
    original = tokenizers.Tokenizer(model)
    original.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(original_parts("smollm")[1])
    original.add_special_tokens(tokens[:17])
    expected = [original.encode(text).ids for text in TEXTS]
    assert [imported(text)["input_ids"] for text in TEXTS] == expected
    assert ids_of_adept(adept, folder, TEXTS, tmp_path) == [ids for ids in expected if ids]
    chat = imported.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_the_real_gemma_tokenizes_and_writes_as_transformers_does(gemma3, adept, tmp_path):
    path, folder = gemma3
    architecture, parts, _ = get_gguf_tokenizer(str(path))
    backend, _ = convert_gguf_tokenizer(architecture, parts)
    texts = [text for text in GEMMA_TEXTS if text and "\u2581" not in text]
    expected = [[2, *backend.encode(text, add_special_tokens=False).ids] for text in texts]
    assert ids_of_adept(adept, folder, texts, tmp_path) == expected
    prompt = "The four seasons of the year are"
    ids = torch.tensor([[2, *backend.encode(prompt, add_special_tokens=False).ids]])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    text = adept("generate", "--model", folder, "--prompt", prompt, "--max-new-tokens", 12, "--temperature", 0,
                 "--dtype", "fp32", "--no-echo").stdout  # fmt: skip
    assert text.strip() == backend.decode(made[0, ids.shape[1] :].tolist()).strip()

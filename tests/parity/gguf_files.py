"""GGUF files of tiny models and tokenizers, written with the `gguf` package, and texts to try them on."""

import functools
import json

import gguf
import numpy
import tokenizers
import torch
import transformers

import tiny_models

Type = gguf.GGMLQuantizationType
BLOCK_TYPES = [Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K]
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# Public-domain-like sentences of our own, with what a tokenizer can get wrong.
TEXTS = [
    "The heart beats about 100,000 times a day; in 2024 that was 36,600,000 beats.",
    "He said: \"It's 7 o'clock, we'll go, I'd say they've won 12-3!\"",
    "x = 1234567890 + 0xFF; y[3] += 2**10  # f(x) <= 3.14159 && a||b",
    "Grüße aus Zürich, naïve café, Ελληνικά, русский текст, 中文字符, 日本語テキスト, ไทย, हिन्दी",
    "emoji 😀👩‍👩‍👧 and e\u0301 combining, ﬁ ligature, ½ ² ٣٤٥ Ⅷ",
    "tabs\t\tand  double   triple    blanks\n\n\nnew lines\r\n\r\nend \n",
    "   leading and trailing   ",
    "DON'T SHOUT, I'LL LISTEN; WE'RE HERE'S",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "\u00a0\u2003odd\u3000spaces\u200bzero width\ufeff",
    "123456789 12 1 1234 a1b22c333",
    "...!!!??? ---===*** ((([[[{{{ $$$ ^^^ ~~~ `code` @user #tag",
    " ",
    "\n",
    "",
]
CORPUS = TEXTS * 3 + [" ".join(str(number) for number in range(start, start + 50)) for start in range(0, 3000, 50)]


def bits(tensor):
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def assert_same_bits(found, expected, name):
    assert found.dtype == expected.dtype and found.shape == expected.shape, name
    assert torch.equal(bits(found), bits(expected)), name


# --- Writing GGUF files -----------------------------------------------------------------------------------------------


def write_gguf(path, architecture, metadata, tensors, tokenizer):
    """`metadata` without the architecture's prefix; `tensors`: name -> array, or (bytes of blocks, type)."""
    writer = gguf.GGUFWriter(path, architecture)
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
              list: writer.add_array}
    for key, value in metadata.items():
        adders[type(value)](f"{architecture}.{key}", value)
    for key, value in tokenizer.items():
        adders[type(value)](f"tokenizer.{key}", value)
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=tensor[1])
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def simple_tokenizer(size):
    """The 256 byte characters, one merge, special tokens, fillers: for models whose tokenizer is not the subject."""
    tokens = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "ab", *SPECIAL_TOKENS]
    fillers = [f"[PAD{index}]" for index in range(len(tokens), size)]
    return {"ggml.model": "gpt2", "ggml.pre": "smollm", "ggml.tokens": tokens + fillers,
            "ggml.token_type": [1] * 257 + [3] * len(SPECIAL_TOKENS) + [5] * len(fillers), "ggml.merges": ["a b"],
            "ggml.eos_token_id": 257}


def permute(weights, heads):
    """As llama.cpp's converter orders the rows of q and k: the two halves of each head interleaved."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def llama3_factors(config):
    """The divisors of the rotary frequencies, from transformers' own scaled frequencies."""
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    head_dim = config.head_dim
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return (plain / scaled).numpy()


LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}
OWN_LAYER_NAMES = {  # by model_type
    "gemma2": GEMMA_NAMES,
    "gemma3_text": GEMMA_NAMES,
    "olmo2": {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"},
    "phi3": {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
}


INTERLEAVED = ("llama", "mistral", "granite")  # model types whose q and k the converter permutes
# Tiny models with windows, scales or missing caps that GGUF cannot express.
NOT_IN_GGUF = ["qwen2_max_window_layers", "qwen3_layer_types", "gemma3", "gemma2", "gemma2_without_caps"]


def gguf_name(name, model_type):
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, suffix = name.rsplit(".", 1)
    if stem in outside:
        return f"{outside[stem]}.{suffix}"
    _, _, layer, unit = stem.split(".", 3)
    return f"blk.{layer}.{(LAYER_NAMES | OWN_LAYER_NAMES.get(model_type, {}))[unit]}.{suffix}"


def write_model(path, model):
    """A transformers model as the GGUF file that llama.cpp's converter would make of it, in F32."""
    config = model.config
    is_gemma3 = config.model_type == "gemma3_text"
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = gguf_name(name, config.model_type)
        array = tensor.numpy()
        if name.endswith("norm.weight"):
            array = array + tiny_models.gain_offset(config.model_type)
        unit = target.split(".")[2] if target.startswith("blk.") else ""
        if config.model_type in INTERLEAVED and unit in heads:
            array = permute(array, heads[unit])
        tensors[target] = array
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    metadata = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim, "attention.value_length": head_dim, "rope.dimension_count": head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "vocab_size": config.vocab_size,
    }
    rope = config.rope_parameters["full_attention"] if is_gemma3 else config.rope_parameters
    metadata["rope.freq_base"] = float(rope["rope_theta"])
    rope_type = rope["rope_type"]
    if rope_type == "linear":
        metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
    if rope_type == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(config)
    if config.model_type in ("mistral", "gemma2", "gemma3_text") and config.sliding_window:
        metadata["attention.sliding_window"] = config.sliding_window
    if config.model_type == "phi3":
        metadata |= {"attention.sliding_window": config.sliding_window or 0,
                     "rope.dimension_count": int(head_dim * config.rope_parameters["partial_rotary_factor"]),
                     "rope.scaling.original_context_length": config.original_max_position_embeddings}
    if config.model_type == "gemma2":
        metadata |= {"attn_logit_softcapping": config.attn_logit_softcapping,
                     "final_logit_softcapping": config.final_logit_softcapping}
    if config.model_type == "granite":
        metadata |= {"attention.scale": config.attention_multiplier, "embedding_scale": config.embedding_multiplier,
                     "residual_scale": config.residual_multiplier, "logit_scale": config.logits_scaling}
    if rope_type == "longrope":
        _, metadata["rope.scaling.attn_factor"] = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["longrope"](
            config, torch.device("cpu"))
        for length in ("long", "short"):
            factors = numpy.array(config.rope_parameters[f"{length}_factor"], dtype=numpy.float32)
            tensors[f"rope_factors_{length}.weight"] = factors
    return write_gguf(path, "gemma3" if is_gemma3 else config.model_type, metadata, tensors, simple_tokenizer(config.vocab_size))


# --- Tokenizers -------------------------------------------------------------------------------------------------------

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def original_parts(pre):
    """(normalizer, pre-tokenizer) as the models of that name have them."""
    pre_tokenizers = tokenizers.pre_tokenizers
    byte_level = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False)

    def split(pattern):
        return [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"), byte_level(use_regex=False)]

    nfc = tokenizers.normalizers.NFC()
    qwen2 = transformers.models.qwen2.tokenization_qwen2.PRETOKENIZE_REGEX
    return {
        "smollm": (None, [pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        "command-r": (nfc, [pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        "gpt-2": (None, [byte_level()]),
        "olmo": (nfc, [byte_level()]),  # GPT-NeoX's
        "llama-bpe": (None, split(LLAMA3)),
        "qwen2": (nfc, split(qwen2)),
        "default": (None, [byte_level(use_regex=False)]),  # see default_pieces
    }[pre]


def write_tiny_llama(path, tokenizer, vocabulary):
    """A Llama with next to no weights, whose tokenizer is the subject."""
    shapes = {"token_embd": (vocabulary, 4), "output_norm": (4,), "blk.0.attn_norm": (4,), "blk.0.attn_q": (4, 4),
              "blk.0.attn_k": (4, 4), "blk.0.attn_v": (4, 4), "blk.0.attn_output": (4, 4), "blk.0.ffn_norm": (4,),
              "blk.0.ffn_gate": (4, 4), "blk.0.ffn_up": (4, 4), "blk.0.ffn_down": (4, 4)}
    metadata = {"block_count": 1, "context_length": 64, "embedding_length": 4, "feed_forward_length": 4,
                "attention.head_count": 1, "attention.layer_norm_rms_epsilon": 1e-5}
    tensors = {f"{name}.weight": numpy.ones(shape, numpy.float32) for name, shape in shapes.items()}
    return write_gguf(path, "llama", metadata, tensors, tokenizer)


def ids_of_adept(adept, model, texts, folder):
    """The ids that `adept tokenize` gives; empty texts are no documents, so they are left out."""
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts if text))
    return [json.loads(line) for line in adept("tokenize", "--model", model, "--data", path).stdout.splitlines()]


GEMMA_TEXTS = [*TEXTS, *["a" + count * " " + "b" for count in (13, 33, 40)], " \u2581 \u2581\u2581x", "the  the\n the",
               "x  y   z     9\n\n\n\n\n\nend\t\t\tt", "<table>\n  <start_of_turn>user\n</table>"]

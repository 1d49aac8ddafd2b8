"""Tiny random models of every supported architecture, made on the spot with transformers' own classes."""

import dataclasses
import json

import torch
import transformers

# Odd sizes: no dimension is a power of two, three query heads share one key-value head.
COMMON = dict(
    vocab_size=331,
    hidden_size=72,
    intermediate_size=108,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """A configuration class with its keys, and edits of the saved config.json (None removes a key)."""

    config_class: type
    keys: dict
    edits: dict = dataclasses.field(default_factory=dict)
    gain_offset: float = 0.0  # what is added to stored gains


def _llama(edits=None, **keys):
    return TinyModel(transformers.LlamaConfig, {**COMMON, **keys}, edits or {})


def _mistral(**keys):
    return TinyModel(transformers.MistralConfig, {**COMMON, **keys})


def _qwen2(**keys):
    return TinyModel(transformers.Qwen2Config, {**COMMON, **keys})


def _qwen3(**keys):
    return TinyModel(transformers.Qwen3Config, {**COMMON, **keys})


def _gemma3(edits=None, **keys):
    keys = {"head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 7, **keys}
    return TinyModel(transformers.Gemma3TextConfig, {**COMMON, **keys}, edits or {}, gain_offset=1.0)


def _gemma2(edits=None, **keys):
    keys = {"head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 7, "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 12.0, **keys}
    return TinyModel(transformers.Gemma2Config, {**COMMON, **keys}, edits or {}, gain_offset=1.0)


def _olmo2(**keys):
    return TinyModel(transformers.Olmo2Config, {**COMMON, **keys})


def _phi3(edits=None, **keys):
    return TinyModel(transformers.Phi3Config, {**COMMON, "pad_token_id": 0, **keys}, edits or {})


def _granite(**keys):
    return TinyModel(transformers.GraniteConfig, {**COMMON, **keys})


# Half of the 12 dimensions of a head rotate; texts of the tests have 29 tokens, and 90 in those of GGUF files.
def _longrope(original_length):
    return {"original_max_position_embeddings": original_length,
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                                "short_factor": [1.0, 1.25, 1.5], "long_factor": [1.0, 3.5, 9.25]}}


TINY_MODELS = {
    "llama": _llama(),
    "llama_tied": _llama(tie_word_embeddings=True),
    "llama_biases": _llama(attention_bias=True, mlp_bias=True),
    "llama_head_dim": _llama(head_dim=10),
    "llama_one_head": _llama(hidden_size=34, num_attention_heads=1, num_key_value_heads=1),
    "llama3_scaling": _llama(rope_parameters=LLAMA3),
    "llama3_scaling_old_spelling": _llama(
        rope_parameters=LLAMA3,
        edits={
            "rope_parameters": None,
            "rope_theta": 500000.0,
            "rope_scaling": {key: value for key, value in LLAMA3.items() if key != "rope_theta"},
        },
    ),
    "llama_linear_scaling": _llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}),
    "llama_linear_old_spelling": _llama(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        edits={"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
    ),
    "mistral": _mistral(sliding_window=None),
    "mistral_sliding": _mistral(sliding_window=7),
    "qwen2": _qwen2(),
    "qwen2_tied": _qwen2(tie_word_embeddings=True),
    "qwen2_max_window_layers": _qwen2(use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": _qwen3(head_dim=16),
    "qwen3_layer_types": _qwen3(
        head_dim=16,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gemma3": _gemma3(layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    # As every Gemma 3 is: GGUF does not say it.
    "gemma3_pattern": _gemma3(num_hidden_layers=7, query_pre_attn_scalar=16),
    "gemma3_old_spelling": _gemma3(
        tie_word_embeddings=False,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 500000.0, "factor": 2.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
        },
        edits={
            "rope_parameters": None,
            "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 2.5},
            "rope_local_base_freq": 20000.0,
            "layer_types": None,
            "sliding_window_pattern": 2,
        },
    ),
    "gemma2": _gemma2(),
    # As GGUF has it.
    "gemma2_alternating": _gemma2(num_hidden_layers=4, query_pre_attn_scalar=16, edits={"layer_types": None}),
    "gemma2_without_caps": _gemma2(attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=False,
                                   layer_types=["full_attention", "sliding_attention", "sliding_attention"]),
    "granite": _granite(embedding_multiplier=12.0, attention_multiplier=0.015625, residual_multiplier=0.22, logits_scaling=8.0),
    "granite_biases_tied": _granite(embedding_multiplier=5.3, attention_multiplier=0.4, residual_multiplier=1.7, logits_scaling=0.9,
                                    attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "granite_plain": _granite(),
    "olmo2": _olmo2(),
    "olmo2_biases_tied": _olmo2(attention_bias=True, tie_word_embeddings=True),
    "phi3": _phi3(sliding_window=7),
    "phi3_tied": _phi3(tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    "phi3_longrope_short": _phi3(**_longrope(128)),
    "phi3_longrope_long": _phi3(**_longrope(8)),
    "phi3_longrope_old_spelling": _phi3(
        **_longrope(8),
        edits={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.25, 1.5], "long_factor": [1.0, 3.5, 9.25]},
        },
    ),
}


def model_type_of(name):
    return TINY_MODELS[name].config_class.model_type


def with_every_architecture(*names):
    """These, and the first tiny model of each architecture that has none among them."""
    chosen = list(names)
    for name in TINY_MODELS:
        if model_type_of(name) not in map(model_type_of, chosen):
            chosen.append(name)
    return chosen


def gain_offset(model_type):
    """What is added to stored gains of norms."""
    return next(tiny.gain_offset for tiny in TINY_MODELS.values() if tiny.config_class.model_type == model_type)


def attention_of(model_type):
    """The attention of transformers to compare with: its sdpa leaves soft caps out."""
    return "eager" if model_type == "gemma2" else "sdpa"


def build(name, seed=0, dtype=torch.float32):
    """The transformers model, on the CPU in evaluation mode. Biases and norms are random too, not 0 and 1."""
    tiny = TINY_MODELS[name]
    torch.manual_seed(seed)
    config = tiny.config_class(**tiny.keys)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config.model_type)).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(".bias"):
                parameter.normal_(0, 0.3)
            elif "norm" in parameter_name:
                parameter.uniform_(0.5 - tiny.gain_offset, 1.5 - tiny.gain_offset)
            else:
                parameter.normal_(0, 2.0 / parameter.shape[-1] ** 0.5)
    return model.to(dtype)


def save(name, model, directory, max_shard_size="5GB"):
    """save_pretrained, then the edits of config.json that this case is about."""
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for key, value in TINY_MODELS[name].edits.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    path.write_text(json.dumps(config, indent=2))
    return directory


def random_batch(vocab_size, rows=3, columns=29, seed=1):
    """ids and next-token targets (B, T); the last row is padded on the right, some targets carry no loss."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab_size, (rows, columns), generator=generator)
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    targets[0, 3:6] = -100
    ids[-1, columns - 8 :] = 0
    targets[-1, columns - 9 :] = -100
    return ids, targets

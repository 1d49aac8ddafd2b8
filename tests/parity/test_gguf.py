"""GGUF import against the `gguf` package, transformers, tokenizers and sentencepiece."""

import functools
import io
import itertools
import json

import gguf
import numpy
import pytest
import regex
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.integrations.gguf.reader import read_gguf_metadata

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


# --- Weights ----------------------------------------------------------------------------------------------------------

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


def default_pieces(text):
    """llama.cpp's `default`: each expression cuts the pieces of the one before, what does not match stays a piece."""
    pieces = [text]
    for pattern in [r"[\p{P}\$\+<=>\^~\|]+", GPT2.removesuffix(r"|\s+"), r"\p{N}+", r"[0-9][0-9][0-9]"]:
        cut = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(pattern, piece):
                cut += [piece[end : match.start()], match.group()]
                end = match.end()
            cut.append(piece[end:])
        pieces = [piece for piece in cut if piece]
    return pieces


def train_byte_level(pre):
    normalizer, parts = original_parts(pre)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre == "llama-bpe"))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(parts)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    corpus = CORPUS
    if pre == "default":
        corpus = [piece for text in CORPUS for piece in default_pieces(text)]
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def write_tiny_llama(path, tokenizer, vocabulary):
    """A Llama with next to no weights, whose tokenizer is the subject."""
    shapes = {"token_embd": (vocabulary, 4), "output_norm": (4,), "blk.0.attn_norm": (4,), "blk.0.attn_q": (4, 4),
              "blk.0.attn_k": (4, 4), "blk.0.attn_v": (4, 4), "blk.0.attn_output": (4, 4), "blk.0.ffn_norm": (4,),
              "blk.0.ffn_gate": (4, 4), "blk.0.ffn_up": (4, 4), "blk.0.ffn_down": (4, 4)}
    metadata = {"block_count": 1, "context_length": 64, "embedding_length": 4, "feed_forward_length": 4,
                "attention.head_count": 1, "attention.layer_norm_rms_epsilon": 1e-5}
    tensors = {f"{name}.weight": numpy.ones(shape, numpy.float32) for name, shape in shapes.items()}
    return write_gguf(path, "llama", metadata, tensors, tokenizer)


def import_tokenizer(adept, folder, tokenizer):
    """The imported tokenizer as transformers loads it, and the folder."""
    path = write_tiny_llama(folder / "tiny.gguf", tokenizer, len(tokenizer["ggml.tokens"]))
    adept("import-gguf", "--gguf", path, "--out", folder / "out")
    return transformers.AutoTokenizer.from_pretrained(folder / "out")


def ids_of_adept(adept, model, texts, folder):
    """The ids that `adept tokenize` gives; empty texts are no documents, so they are left out."""
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts if text))
    return [json.loads(line) for line in adept("tokenize", "--model", model, "--data", path).stdout.splitlines()]


@pytest.mark.parametrize("pre", ["smollm", "command-r", "llama-bpe", "qwen2", "gpt-2", "olmo", "default"])
def test_an_imported_tokenizer_gives_the_ids_of_the_original(pre, adept, tmp_path):
    original = train_byte_level(pre)
    model = json.loads(original.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    types = [3 if token in SPECIAL_TOKENS else 1 for token in tokens]
    bos = model["vocab"]["<|im_start|>"]
    imported = import_tokenizer(adept, tmp_path, {
        "ggml.model": "gpt2", "ggml.pre": pre, "ggml.tokens": tokens, "ggml.token_type": types,
        "ggml.merges": [" ".join(merge) for merge in model["merges"]], "ggml.bos_token_id": bos,
        "ggml.eos_token_id": model["vocab"]["<|im_end|>"]})
    adds_bos = [bos] if pre == "llama-bpe" else []

    def expected(text):
        if pre != "default":
            return adds_bos + original.encode(text).ids
        parts = regex.split("(" + "|".join(map(regex.escape, SPECIAL_TOKENS)) + ")", text)
        pieces = [piece for part in parts for piece in ([part] if part in SPECIAL_TOKENS else default_pieces(part))]
        return [index for piece in pieces for index in original.encode(piece).ids]

    for text in TEXTS:
        ids = imported(text)["input_ids"]
        assert ids == expected(text), repr(text)
        if not original_parts(pre)[0]:  # what is normalized is another text
            assert imported.decode(ids[len(adds_bos) :]) == text
    assert ids_of_adept(adept, tmp_path / "out", TEXTS, tmp_path) == [expected(text) for text in TEXTS if text]
    assert (imported.bos_token, imported.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_an_imported_sentencepiece_tokenizer_gives_the_ids_of_sentencepiece(adept, tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False, max_sentence_length=100000)
    original = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = original.get_piece_size()
    kinds = [(original.is_byte, 6), (original.is_control, 3), (original.is_unknown, 2), (original.is_unused, 5)]
    types = [next((number for is_kind, number in kinds if is_kind(index)), 1) for index in range(size)]
    imported = import_tokenizer(adept, tmp_path, {
        "ggml.model": "llama", "ggml.pre": "default", "ggml.tokens": [original.id_to_piece(i) for i in range(size)],
        "ggml.token_type": types, "ggml.scores": [original.get_score(index) for index in range(size)],
        "ggml.bos_token_id": original.bos_id(), "ggml.eos_token_id": original.eos_id(),
        "ggml.unknown_token_id": original.unk_id()})
    texts = [text for text in TEXTS if text]
    for text in texts:
        ids = imported(text)["input_ids"]
        assert ids == [original.bos_id()] + original.encode(text), repr(text)
        assert imported.decode(ids[1:]) == text
    expected = [[original.bos_id()] + original.encode(text) for text in texts]
    assert ids_of_adept(adept, tmp_path / "out", texts, tmp_path) == expected


def train_gemma(folder):
    """A SentencePiece model of Gemma's kind in `folder`, as transformers' GemmaTokenizer and as the processor itself."""
    blanks = ["\u2581" * count for count in range(2, 8)]
    symbols = ["<mask>", *["\n" * count for count in range(1, 5)], *blanks, "<table>", "</table>", "\t", "\t\t",
               "<start_of_turn>"]
    with open(folder / "tokenizer.model", "wb") as writer:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=writer, model_type="bpe", vocab_size=900, byte_fallback=True,
            split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
            add_dummy_prefix=False, allow_whitespace_only_pieces=True, hard_vocab_limit=False,
            max_sentence_length=100000, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>",
            eos_piece="<eos>", user_defined_symbols=symbols)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return transformers.GemmaTokenizer.from_pretrained(folder), processor


def gemma_vocabulary(processor):
    """As llama.cpp's converter writes it: added tokens have the score -1000 and plain blanks."""
    tokens, types, scores = [], [], []
    for index in range(processor.get_piece_size()):
        token, kind, score = processor.id_to_piece(index), 6 if processor.is_byte(index) else 1, processor.get_score(index)
        if kind == 1 and (processor.is_control(index) or processor.is_unknown(index) or token in ("<mask>", "<start_of_turn>")):
            kind, score = 3, -1000.0
        elif kind == 1 and (not token.strip("\u2581\n\t") and len(token) > 1 or token in ("\n", "\t", "<table>", "</table>")):
            kind, score, token = 4, -1000.0, token.replace("\u2581", " ")
        tokens, types, scores = [*tokens, token], [*types, kind], [*scores, score]
    return {"ggml.model": "llama", "ggml.pre": "default", "ggml.tokens": tokens, "ggml.token_type": types,
            "ggml.scores": scores, "ggml.bos_token_id": 2, "ggml.eos_token_id": 1, "ggml.unknown_token_id": 3,
            "ggml.padding_token_id": 0, "ggml.add_bos_token": True, "ggml.add_sep_token": False,
            "ggml.add_eos_token": False, "ggml.add_space_prefix": False}


GEMMA_TEXTS = [*TEXTS, *["a" + count * " " + "b" for count in (13, 33, 40)], " \u2581 \u2581\u2581x", "the  the\n the",
               "x  y   z     9\n\n\n\n\n\nend\t\t\tt", "<table>\n  <start_of_turn>user\n</table>"]


def test_an_imported_gemma_tokenizer_gives_the_ids_of_transformers(adept, tmp_path):
    original, processor = train_gemma(tmp_path)
    vocabulary = gemma_vocabulary(processor)
    assert 4 in vocabulary["ggml.token_type"] and "  " in vocabulary["ggml.tokens"]
    imported = import_tokenizer(adept, tmp_path, vocabulary)
    expected = {text: [2, *original(text, add_special_tokens=False)["input_ids"]] for text in GEMMA_TEXTS}
    for text, ids in expected.items():
        assert imported(text)["input_ids"] == ids, repr(text)
        assert imported.decode(ids[1:]) == text.replace("\u2581", " ")
    texts = [text for text in GEMMA_TEXTS if text]
    assert ids_of_adept(adept, tmp_path / "out", texts, tmp_path) == [expected[text] for text in texts]
    # transformers' own reading of a GGUF file, where the architecture says that it is Gemma's; it adds no "▁▁".
    path = write_gguf(tmp_path / "gemma3.gguf", "gemma3", {}, {}, vocabulary)
    architecture, parts, _ = get_gguf_tokenizer(str(path))
    backend, _ = convert_gguf_tokenizer(architecture, parts)
    for text in texts:
        if "\u2581" not in text:
            assert [2, *backend.encode(text, add_special_tokens=False).ids] == expected[text], repr(text)


# --- The real file ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf, adept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    adept("import-gguf", "--gguf", smollm2_gguf, "--out", folder)
    yield smollm2_gguf, folder
    (folder / "model.safetensors").unlink()


def test_the_real_file_equals_the_dequantisation_of_transformers(smollm2):
    path, folder = smollm2
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    expected = transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint(path, return_tensors=True,
                                                                             model_to_load=model)
    found = load_file(folder / "model.safetensors")
    assert sorted(found) == sorted(expected["tensors"]) and len(found) == 272
    for name, tensor in expected["tensors"].items():
        assert_same_bits(found[name], tensor, name)
    for key in ["num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size", "vocab_size",
                "num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings", "bos_token_id",
                "eos_token_id", "pad_token_id"]:
        assert getattr(config, key) == expected["config"][key], key
    assert config.model_type == "llama" and config.rms_norm_eps == 1e-5
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 100000.0}


@pytest.fixture(scope="module")
def gemma3(gemma3_gguf, adept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma3") / "model"
    adept("import-gguf", "--gguf", gemma3_gguf, "--out", folder)
    yield gemma3_gguf, folder
    (folder / "model.safetensors").unlink()


def test_the_real_gemma_equals_the_dequantisation_of_transformers(gemma3):
    path, folder = gemma3
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    expected = transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint(path, return_tensors=True,
                                                                             model_to_load=model)
    found = load_file(folder / "model.safetensors")
    assert sorted(found) == sorted(expected["tensors"]) and len(found) == 236
    for name, tensor in expected["tensors"].items():
        assert_same_bits(found[name], tensor, name)
    published = transformers.Gemma3TextConfig(  # google/gemma-3-270m, config.json
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, max_position_embeddings=32768, sliding_window=512,
        query_pre_attn_scalar=256)  # fmt: skip
    for key in published.to_dict():
        if key not in ("architectures", "dtype", "transformers_version", "pad_token_id", "_sliding_window_pattern"):
            assert getattr(config, key) == getattr(published, key), key


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


@pytest.fixture(scope="module")
def gemma3(gemma3_gguf, adept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma3") / "model"
    adept("import-gguf", "--gguf", gemma3_gguf, "--out", folder)
    yield gemma3_gguf, folder
    (folder / "model.safetensors").unlink()


def test_the_real_gemma_equals_the_dequantisation_of_transformers(gemma3):
    path, folder = gemma3
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    expected = transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint(path, return_tensors=True,
                                                                             model_to_load=model)
    found = load_file(folder / "model.safetensors")
    assert sorted(found) == sorted(expected["tensors"])
    for name, tensor in expected["tensors"].items():
        assert_same_bits(found[name], tensor, name)
    for key in ["num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size", "vocab_size",
                "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "bos_token_id",
                "eos_token_id", "pad_token_id"]:
        assert getattr(config, key) == expected["config"][key], key
    assert config.model_type == "gemma3_text" and config.layer_types[5::6] == ["full_attention"] * 3


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
          tmp_path / "ids.txt")
    assert (tmp_path / "ids.txt").read_text() == "".join(f"{reference(text)['input_ids']}\n" for text in ["one", "two"])
    neither = adept("tokenize", "--model", model, check=False)
    assert neither.returncode == 2 and "found neither --text nor --data" in neither.stderr
    both = adept("tokenize", "--model", model, "--text", "a", "--data", "x.txt", check=False)
    assert both.returncode == 2 and "found both --text and --data" in both.stderr

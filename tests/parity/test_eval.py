"""`adept eval` against the documented recipe, computed with transformers and tokenizers."""

import collections
import json
import math

import pytest
import text_models
import torch
import transformers
from conftest import run_program
from text_models import one_thread  # noqa: F401, an automatic fixture

SEQ_LEN = 20


@pytest.fixture(scope="module", params=[False, True], ids=["no_bos", "bos"])
def setup(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    text_models.save("qwen3_layer_types", folder / "model", bos=request.param)
    texts = {"first": text_models.sentences("general", 5), "second": text_models.sentences("domain", 4, seed=1)}
    # One token (none with BOS), exactly one window, one window and a single token more.
    exact = text_models.sentences("general", 1, seed=7)[0] * 5
    for length in (1, SEQ_LEN, SEQ_LEN + 1):
        texts["second"].append(text_models.tokenizer().decode(text_models.encode(exact)[:length]))
    for name, documents in texts.items():
        text_models.write_jsonl(folder / f"{name}.jsonl", documents)
    return folder, texts, request.param


def evaluate(folder, *arguments, names=("first", "second")):
    data = [word for name in names for word in ("--data", f"{name}={folder / name}.jsonl")]
    run_program(
        "adept", "eval", "--model", folder / "model", *data, "--out", folder / "results.json", "--threads", 1,
        "--batch-size", 3, "--dtype", "fp32", *arguments,
    )  # fmt: skip
    found = json.loads((folder / "results.json").read_text())
    assert set(found) == {"datasets", "checksum"} and set(found["datasets"]) == set(names)
    return found["datasets"]


@torch.no_grad()
def score(model, windows):
    """Sum of the loss in nats over the targets of each window, alone and unpadded, and their number."""
    total, tokens = 0.0, 0
    for ids, first_target in windows:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, first_target - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first_target:]), reduction="sum").item()
        tokens += len(ids) - first_target
    return total, tokens


def check(found, total, tokens, texts, num_tokens, rel=2e-6):
    """`num_tokens` are all tokens of the texts: those that are not predicted count as the others in bits per byte."""
    assert set(found) >= {"loss", "perplexity", "bits_per_byte", "tokens", "documents", "text"}
    assert found["tokens"] == tokens
    assert found["documents"] == len(texts)
    assert found["loss"] == pytest.approx(total / tokens, rel=rel)
    assert found["perplexity"] == pytest.approx(math.exp(total / tokens), rel=20 * rel)
    num_bytes = sum(len(text.encode()) for text in texts)
    assert found["bits_per_byte"] == pytest.approx(total / tokens / math.log(2) * num_tokens / num_bytes, rel=rel)


def scored(ids, texts):
    """A document of one token has nothing to predict and is not counted."""
    return [text for i, text in zip(ids, texts) if len(i) > 1]


@pytest.mark.parametrize("stride", [None, 7])
def test_each_document_alone(setup, stride):
    folder, texts, bos = setup
    found = evaluate(folder, "--seq-len", SEQ_LEN, *(["--stride", stride] if stride else []))
    model = text_models.load(folder / "model").double()
    for name, documents in texts.items():
        ids = [text_models.encode(text, bos=bos) for text in documents]
        windows = text_models.windows(ids, SEQ_LEN, stride)
        total, tokens = score(model, windows)
        if stride:  # the first token of a document is the only one that has no context
            assert tokens == sum(len(i) - 1 for i in ids)
        check(found[name], total, tokens, scored(ids, documents), sum(len(i) for i in ids if len(i) > 1))


def test_overlapping_windows_are_the_perplexity_recipe_of_hugging_face(setup):
    """The loop of transformers' documentation, "Perplexity of fixed-length models"; its mean is per window."""
    folder, texts, bos = setup
    stride = 7
    found = evaluate(folder, "--seq-len", SEQ_LEN, "--stride", stride, names=["first"])["first"]
    model = text_models.load(folder / "model").double()
    total = tokens = 0
    for text in texts["first"]:
        ids = torch.tensor([text_models.encode(text, bos=bos)])
        previous_end = 0
        for begin in range(0, ids.size(1), stride):
            end = min(begin + SEQ_LEN, ids.size(1))
            labels = ids[:, begin:end].clone()
            labels[:, : -(end - previous_end)] = -100
            valid = (labels[:, 1:] != -100).sum().item()
            with torch.no_grad():
                total += model(ids[:, begin:end], labels=labels).loss.item() * valid
            tokens += valid
            previous_end = end
            if end == ids.size(1):
                break
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=2e-6)


@pytest.mark.parametrize("mask", [True, False])
def test_packed_joins_documents_with_eos(setup, mask):
    folder, texts, bos = setup
    found = evaluate(folder, "--seq-len", SEQ_LEN, "--packed", *([] if mask else ["--no-document-mask"]))
    model = text_models.load(folder / "model").double()
    for name, documents in texts.items():
        stream = [token for text in documents for token in text_models.encode(text, bos=bos) + [text_models.EOS]]
        edges = set(range(0, len(stream), SEQ_LEN))
        if mask:
            edges |= {i + 1 for i, token in enumerate(stream[:-1]) if token == text_models.EOS}
        edges = [*sorted(edges), len(stream)]
        windows = [(stream[begin:end], 1) for begin, end in zip(edges, edges[1:])]
        total, tokens = score(model, [window for window in windows if len(window[0]) > 1])
        check(found[name], total, tokens, documents, len(stream))


def test_a_limit_takes_a_sample_of_the_windows(setup):
    """Bits per byte stay comparable: a document of which a part is taken counts with the bytes of its share of tokens."""
    folder, texts, bos = setup
    limit = 60
    found = evaluate(folder, "--seq-len", SEQ_LEN, "--max-tokens", limit, names=["first"])["first"]
    documents = [text_models.encode(text, bos=bos) for text in texts["first"]]
    windows = [(d, i, window) for d, ids in enumerate(documents) for i, window in enumerate(text_models.windows([ids], SEQ_LEN))]
    taken = text_models.sample([window for _, _, window in windows], limit)
    covered = collections.Counter()
    for index, ids, _ in taken:
        d, i, _ = windows[index]
        covered[d] += len(ids) + (i * SEQ_LEN + len(ids) + 1 == len(documents[d]))  # a last single token is no window
    assert any(covered[d] < len(documents[d]) for d in covered), "the limit should cut a document"
    total, tokens = score(text_models.load(folder / "model").double(), [(ids, first) for _, ids, first in taken])
    assert found["tokens"] == tokens and found["documents"] == len(covered)
    assert found["text"] == {"tokens": covered.total(), "all_tokens": sum(map(len, documents)), "documents": len(covered),
                             "all_documents": len(documents), "is_sample": True}  # fmt: skip
    assert found["loss"] == pytest.approx(total / tokens, rel=2e-6)
    bits = total / tokens / math.log(2) * covered.total()
    num_bytes = sum(len(texts["first"][d].encode()) * n / len(documents[d]) for d, n in covered.items())
    assert found["bits_per_byte"] == pytest.approx(bits / num_bytes, abs=bits / num_bytes**2)


def test_smollm2_scores_real_text_as_transformers_does(smollm2_gguf, real_text, tmp_path):
    directory = tmp_path / "smollm2"
    run_program("adept", "import-gguf", "--gguf", smollm2_gguf, "--out", directory)
    source = real_text / "medquad_dev.jsonl.gz" if real_text else None
    if source is None or not source.is_file():
        source = text_models.write_jsonl(tmp_path / "text.jsonl", text_models.sentences("domain", 150))
    limit, seq_len = 1500, 256
    run_program(
        "adept", "eval", "--model", directory, "--data", f"text={source}", "--out", tmp_path / "results.json",
        "--seq-len", seq_len, "--max-tokens", limit, "--dtype", "fp32",
    )  # fmt: skip
    found = json.loads((tmp_path / "results.json").read_text())["datasets"]["text"]
    lines = run_program("adept", "tokenize", "--model", directory, "--data", source).stdout.splitlines()
    windows = text_models.sample(text_models.windows(map(json.loads, lines), seq_len), limit)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    total, tokens = score(model, [(ids, first) for _, ids, first in windows])
    assert tokens > 1000 and found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=2e-4)
    (directory / "model.safetensors").unlink()

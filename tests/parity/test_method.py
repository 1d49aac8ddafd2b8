"""The method against plain computations with transformers: expansion, layer importance."""

import json
import math

import pytest
import text_models
import tiny_models
import torch
from conftest import run_program
from safetensors.torch import load_file, save_file
from text_models import one_thread  # noqa: F401, an automatic fixture

ZERO_IN_COPIES = ("self_attn.o_proj.weight", "self_attn.o_proj.bias", "mlp.down_proj.weight", "mlp.down_proj.bias")
# Two-sided 95 % quantiles of Student's t by degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
STUDENT_T |= {11: 2.201, 12: 2.179, 13: 2.160, 14: 2.145, 15: 2.131, 16: 2.120, 17: 2.110, 18: 2.101, 19: 2.093}


def read_tensors(directory):
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def same_bytes(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def expand(base, out, after):
    run_program("adept", "expand", "--model", base, "--out", out, "--after", ",".join(map(str, after)))
    return out


def layer_map(after, num_layers):
    """[(source, is_copy)] of every layer of the expanded model."""
    return [(l, copy) for l in range(num_layers) for copy in ([False, True] if l in after else [False])]


def value_in_copies(name, unit, units):
    """What a residual output of a copy holds, by which the copy adds nothing; None for other tensors of the layer."""
    gains = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")  # behind the branches
    if gains[1] in units:
        return 0.0 - tiny_models.TINY_MODELS[name].gain_offset if unit in gains else None  # not -0
    return 0 if unit in ZERO_IN_COPIES else None


def expected_tensors(model_name, base, after, num_layers):
    """The expanded model's tensors, written down from the definition."""
    expected = {name: tensor for name, tensor in base.items() if not name.startswith("model.layers.")}
    for index, (source, is_copy) in enumerate(layer_map(after, num_layers)):
        prefix = f"model.layers.{source}."
        units = {name[len(prefix) :]: tensor for name, tensor in base.items() if name.startswith(prefix)}
        for unit, tensor in units.items():
            value = value_in_copies(model_name, unit, units) if is_copy else None
            expected[f"model.layers.{index}.{unit}"] = tensor if value is None else torch.full_like(tensor, value)
    return expected


def check_expansion(name, base, out, after):
    num_layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
    expand(base, out, after)
    found, expected = read_tensors(out), expected_tensors(name, read_tensors(base), after, num_layers)
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert same_bytes(found[key], tensor), key

    before, config = (json.loads((path / "config.json").read_text()) for path in (base, out))
    assert config["num_hidden_layers"] == num_layers + len(after)
    changed = {key for key in before | config if before.get(key) != config.get(key)}
    patterns = {"sliding_window_pattern", "_sliding_window_pattern"}  # written as layer_types
    assert changed <= {"num_hidden_layers", "layer_types", "max_window_layers"} | patterns
    if before.get("layer_types") is not None:
        assert config["layer_types"] == [before["layer_types"][l] for l, _ in layer_map(after, num_layers)]
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / file).read_bytes() == (base / file).read_bytes()

    ids, _ = tiny_models.random_batch(tiny_models.COMMON["vocab_size"])
    with torch.no_grad():
        base_logits = text_models.load(base, torch.float32)(ids).logits
        logits = text_models.load(out, torch.float32)(ids).logits
    assert torch.isfinite(base_logits).all()
    assert (logits - base_logits).abs().max().item() == 0

    manifest = json.loads((out / "adept_expansion.json").read_text())
    copies = [(source, i) for i, (source, is_copy) in enumerate(layer_map(after, num_layers)) if is_copy]
    assert [(layer["source"], layer["index"]) for layer in manifest["expanded_layers"]] == copies
    assert manifest["base_num_hidden_layers"] == num_layers and set(manifest["base_model"]) == {"weights", "config.json", "tokenizer"}


@pytest.mark.parametrize("name", tiny_models.TINY_MODELS)
def test_a_copy_after_every_layer_changes_no_logit_in_transformers(name, tmp_path):
    check_expansion(name, text_models.save(name, tmp_path / "base"), tmp_path / "out", [0, 1, 2])


@pytest.mark.parametrize("after", [[0], [2]])
@pytest.mark.parametrize("name", tiny_models.with_every_architecture(
    "qwen2_max_window_layers", "qwen3_layer_types", "gemma2_alternating", "gemma3_old_spelling", "granite_biases_tied"))  # fmt: skip
def test_a_copy_changes_no_logit_wherever_it_is(name, after, tmp_path):
    check_expansion(name, text_models.save(name, tmp_path / "base"), tmp_path / "out", after)


def test_shards_and_half_precision_keep_their_bytes(tmp_path):
    base = text_models.save("llama_tied", tmp_path / "base", dtype=torch.bfloat16, max_shard_size="100KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    check_expansion("llama_tied", base, tmp_path / "out", [1])


def test_our_own_logits_stay_the_same_too(tmp_path):
    base = text_models.save("qwen2_max_window_layers", tmp_path / "base")
    out = expand(base, tmp_path / "out", [0, 1])
    ids, targets = tiny_models.random_batch(tiny_models.COMMON["vocab_size"])
    save_file({"ids": ids, "targets": targets}, tmp_path / "input.safetensors")
    logits = []
    for directory in (base, out):
        run_program("decoder_tool", directory, tmp_path / "input.safetensors", tmp_path / "output.safetensors")
        logits.append(load_file(tmp_path / "output.safetensors")["logits"])
    assert torch.equal(*logits)


# Layer importance. Five layers, so that ranks mean something; what is computed here is as slow and plain as it can be.

NUM_LAYERS, SEQ_LEN = 5, 24


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    text_models.save("qwen2_max_window_layers", folder / "model", num_hidden_layers=NUM_LAYERS)
    texts = {"one": text_models.sentences("general", 3), "two": text_models.sentences("domain", 4)}
    texts["two"].append("a")  # one token: nothing to predict
    for name, documents in texts.items():
        text_models.write_jsonl(folder / f"{name}.jsonl", documents)
    return folder, texts


def probe(folder, *arguments, names=("one", "two")):
    data = [word for name in names for word in ("--data", folder / f"{name}.jsonl")]
    run_program(
        "adept", "probe", "--model", folder / "model", *data, "--out", folder / "importance.json",
        "--seq-len", SEQ_LEN, "--batch-size", 3, "--dtype", "fp32", *arguments,
    )  # fmt: skip
    return json.loads((folder / "importance.json").read_text())


def sequence_loss(model, ids, first_target):
    """Sum over the predicted tokens of one sequence, alone and unpadded."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, first_target - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first_target:]), reduction="sum")


def ratio_interval(totals, weights, sources=None):
    """Ratio estimator: mean and its 95 % interval, sequences being the sample (Cochran, Sampling Techniques, 6.4). Of
    several sources the mean of their means, and the variances add (6.10)."""
    sources = sources or [0] * len(totals)
    mean, variance, strata = 0, 0, sorted(set(sources))
    for source in strata:
        rows = [(t, w) for t, w, s in zip(totals, weights, sources) if s == source]
        n, tokens = len(rows), math.fsum(w for _, w in rows)
        ratio = math.fsum(t for t, _ in rows) / tokens
        residuals = math.fsum((t - ratio * w) ** 2 for t, w in rows)
        mean += ratio / len(strata)
        variance += n / (n - 1) * residuals / tokens**2 / len(strata) ** 2
    half_width = STUDENT_T[len(totals) - len(strata)] * math.sqrt(variance)
    return mean, [mean - half_width, mean + half_width]


def check_importance(found, method, sequences, baseline, scores, intervals):
    assert set(found) - {"model", "samples", "checksum"} == {"method", "baseline_loss", "tokens", "sequences", "layers", "stability"}
    assert found["method"] == method
    assert found["sequences"] == len(sequences)
    assert found["tokens"] == sum(len(ids) - first for ids, first in sequences)
    assert found["baseline_loss"] == pytest.approx(baseline, rel=2e-6)
    for l, layer in enumerate(found["layers"]):
        assert set(layer) == {"index", "score", "normalized", "rank", "ci95", "lowest_share"} and layer["index"] == l
        assert layer["score"] == pytest.approx(scores[l], rel=1e-4, abs=1e-5)
        if intervals:
            assert layer["ci95"] == pytest.approx(intervals[l], rel=1e-3, abs=1e-4)
        assert layer["normalized"] == pytest.approx((scores[l] - min(scores)) / (max(scores) - min(scores)), abs=1e-4)
    by_score = sorted(range(NUM_LAYERS), key=lambda l: -scores[l])
    assert [layer["index"] for layer in sorted(found["layers"], key=lambda layer: layer["rank"])] == by_score
    assert sorted(layer["rank"] for layer in found["layers"]) == list(range(1, NUM_LAYERS + 1))


def probe_windows(texts, names):
    ids = [text_models.encode(text) for name in names for text in texts[name]]
    sequences = text_models.windows(ids, SEQ_LEN)
    assert len(sequences) > len(ids) / 2 and any(len(window) > SEQ_LEN for window in ids)
    return sequences


@torch.no_grad()
def test_mask_out_is_the_loss_without_the_layer(probed):
    folder, texts = probed
    found = probe(folder, "--layers", 3)
    of_source = [probe_windows(texts, [name]) for name in ("one", "two")]
    sequences = of_source[0] + of_source[1]
    sources = [i for i, windows in enumerate(of_source) for _ in windows]
    model = text_models.load(folder / "model").double()
    weights = [len(ids) - first for ids, first in sequences]
    losses = [sequence_loss(model, *sequence).item() for sequence in sequences]
    scores, intervals = [], []
    for layer in model.model.layers:
        identity = layer.register_forward_hook(lambda module, arguments, output: arguments[0])
        bypassed = [sequence_loss(model, *sequence).item() for sequence in sequences]
        identity.remove()
        score, interval = ratio_interval([b - a for a, b in zip(losses, bypassed)], weights, sources)
        scores.append(score)
        intervals.append(interval)
    baseline, _ = ratio_interval(losses, weights, sources)
    check_importance(found, "mask_out", sequences, baseline, scores, intervals)

    run_program("adept", "expand", "--model", folder / "model", "--out", folder / "expanded", "--importance",
                folder / "importance.json", "--layers", 3)  # fmt: skip
    manifest = json.loads((folder / "expanded" / "adept_expansion.json").read_text())
    lowest = sorted(sorted(range(NUM_LAYERS), key=lambda l: scores[l])[:3])
    assert [layer["source"] for layer in manifest["expanded_layers"]] == lowest
    del found["stability"]["covariance"]  # what only a choice needs
    of_the_file = {"samples", "checksum"}
    assert manifest["importance"] == {key: value for key, value in found.items() if key not in of_the_file}


def test_cumulative_is_gradient_times_weight(probed):
    folder, texts = probed
    found = probe(folder, "--method", "cumulative", names=["two"])
    sequences = probe_windows(texts, ["two"])
    model = text_models.load(folder / "model").double()
    weights = [len(ids) - first for ids, first in sequences]
    losses, sums = [], [[] for _ in range(NUM_LAYERS)]
    for sequence, tokens in zip(sequences, weights):
        model.zero_grad()
        loss = sequence_loss(model, *sequence)
        (loss / tokens).backward()
        losses.append(loss.item())
        for l, layer in enumerate(model.model.layers):
            sums[l].append(tokens * sum((p.grad * p).abs().sum().item() for p in layer.parameters()))
    largest = max(sums, key=sum)
    scores, intervals = zip(*(ratio_interval(layer, largest) for layer in sums))
    check_importance(found, "cumulative", sequences, sum(losses) / sum(weights), scores, intervals=None)
    for layer, score, (low, high) in zip(found["layers"], scores, intervals):
        assert layer["ci95"][0] <= layer["score"] <= layer["ci95"][1]
        assert layer["ci95"][1] - layer["ci95"][0] == pytest.approx(high - low, rel=0.5, abs=1e-12)  # of resamples


def test_the_size_of_a_probe_is_shared_by_its_sources(probed):
    folder, texts = probed
    found = probe(folder, "--max-tokens", 100)
    taken = []
    for name in ("one", "two"):
        taken += text_models.sample(probe_windows(texts, [name]), 50)
    assert found["sequences"] == len(taken)
    assert found["tokens"] == sum(len(ids) - first for _, ids, first in taken)
    for name in ("one", "two"):
        sample = found["samples"]["general"][name]
        assert sample["is_sample"] and sample["all_tokens"] == sum(len(text_models.encode(text)) for text in texts[name])


def test_one_sequence_has_no_interval(probed):
    folder, _ = probed
    found = probe(folder, "--max-tokens", 1, names=["one"])
    assert found["sequences"] == 1
    assert all(layer["ci95"] == [None, None] for layer in found["layers"])
    run_program("adept", "expand", "--model", folder / "model", "--out", folder / "by_one", "--importance",
                folder / "importance.json", "--layers", 1)  # fmt: skip


def test_one_backward_gives_every_first_order_method(probed):
    """fisher, taylor_gate, rank_aggregation and block_influence, each from its definition."""
    folder, texts = probed
    run_program("adept", "probe", "--model", folder / "model", "--data", folder / "two.jsonl", "--method", "all",
                "--out", folder / "all.json", "--seq-len", SEQ_LEN, "--dtype", "fp32")  # fmt: skip
    found = json.loads((folder / "all.json").read_text())
    assert found["method"] == "mask_out"
    sequences = probe_windows(texts, ["two"])
    model = text_models.load(folder / "model").double()
    tokens = sum(len(ids) - first for ids, first in sequences)
    scores = {name: [0.0] * NUM_LAYERS for name in ("fisher", "taylor_gate", "block_influence")}
    parts = {}
    for ids, first in sequences:
        n = len(ids) - first
        states = []
        hooks = [layer.register_forward_hook(lambda m, args, out: states.append((args[0], out))) for layer in model.model.layers]
        model.zero_grad()
        loss = sequence_loss(model, ids, first)
        gradients = torch.autograd.grad(loss, [out for _, out in states], retain_graph=True)
        (loss / n).backward()
        for hook in hooks:
            hook.remove()
        for l, ((before, after), gradient) in enumerate(zip(states, gradients)):
            scores["taylor_gate"][l] -= (gradient * (after - before)).sum().item() / tokens
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)[0, first - 1 : -1]
            scores["block_influence"][l] += (1 - cosine).sum().item() / tokens
            for name, p in model.model.layers[l].named_parameters():
                scores["fisher"][l] += n * p.grad.square().sum().item() / tokens
                parts.setdefault(name, [0.0] * NUM_LAYERS)[l] += n * (p.grad * p).abs().sum().item() / tokens
    ranks = [[1 + sum(v > value for v in values) for value in values] for values in parts.values()]
    scores["rank_aggregation"] = [1 - sum(rank[l] for rank in ranks) / len(ranks) / NUM_LAYERS for l in range(NUM_LAYERS)]
    for name, expected in scores.items():
        layers = found["methods"][name]["layers"]
        assert [layer["score"] for layer in layers] == pytest.approx(expected, rel=1e-3), name


def test_the_improvement_by_a_copy_is_the_gradient_of_its_outputs(probed):
    """Autograd on the model that transformers loads with a copy behind every layer."""
    folder, texts = probed
    found = probe(folder, "--method", "gain", "--domain", folder / "two.jsonl", names=["one"])
    expand(folder / "model", folder / "all_copied", range(NUM_LAYERS))
    model = text_models.load(folder / "all_copied").double()
    gradients, losses = {}, {}
    for name in ("one", "two"):
        sequences = probe_windows(texts, [name])
        tokens = sum(len(ids) - first for ids, first in sequences)
        model.zero_grad()
        loss = sum(sequence_loss(model, *sequence) for sequence in sequences) / tokens
        loss.backward()
        losses[name] = loss.item()
        copies = [model.model.layers[2 * l + 1] for l in range(NUM_LAYERS)]
        gradients[name] = [
            torch.cat([c.self_attn.o_proj.weight.grad.flatten(), c.mlp.down_proj.weight.grad.flatten()]) for c in copies
        ]
    assert found["method"] == "gain" and found["baseline_loss"] == pytest.approx(losses["two"], rel=1e-5)
    for layer, g, q in zip(found["layers"], gradients["two"], gradients["one"]):
        assert layer["gain"]["l1"] == pytest.approx(g.abs().sum().item(), rel=1e-3)
        assert layer["gain"]["l2"] == pytest.approx(g.norm().item(), rel=1e-3)
        assert layer["gain"]["general_change"] == pytest.approx(-(g.sign() * q).sum().item(), rel=1e-2)
        assert layer["gain"]["cosine"] == pytest.approx((g @ q / g.norm() / q.norm()).item(), abs=1e-3)


def test_sources_weigh_as_told(probed):
    folder, _ = probed
    one, two = (probe(folder, names=[name])["layers"] for name in ("one", "two"))
    both = probe(folder, "--weights", "3,1")["layers"]
    for layer, a, b in zip(both, one, two):
        assert layer["score"] == pytest.approx(0.75 * a["score"] + 0.25 * b["score"], abs=1e-9)


def test_the_method_gain_prints_what_its_strategy_would_select(probed):
    folder, _ = probed
    process = run_program("adept", "probe", "--model", folder / "model", "--data", folder / "one.jsonl", "--domain", folder / "two.jsonl",
                          "--method", "gain", "--layers", 2, "--seq-len", SEQ_LEN, "--out", folder / "gain.json")  # fmt: skip
    run_program("adept", "expand", "--model", folder / "model", "--out", folder / "chosen", "--force", "--layers", 2,
                "--importance", folder / "gain.json", "--strategy", "gain_per_cost", "--seq-len", SEQ_LEN)  # fmt: skip
    manifest = json.loads((folder / "chosen" / "adept_expansion.json").read_text())
    layers = ", ".join(str(layer["source"]) for layer in manifest["expanded_layers"])
    assert f"gain_per_cost: copies after layers {layers}: predicted" in process.stdout


def test_layers_are_chosen_by_the_strategy(probed):
    folder, _ = probed
    probe(folder, "--method", "cumulative")
    scores = [layer["score"] for layer in json.loads((folder / "importance.json").read_text())["layers"]]

    def chosen(*arguments):
        run_program("adept", "expand", "--model", folder / "model", "--out", folder / "chosen", "--force", *arguments)
        manifest = json.loads((folder / "chosen" / "adept_expansion.json").read_text())
        return [layer["source"] for layer in manifest["expanded_layers"]]

    by_score = sorted(range(NUM_LAYERS), key=lambda l: scores[l])
    file = ["--importance", folder / "importance.json"]
    assert chosen(*file, "--layers", 2, "--strategy", "highest") == sorted(by_score[-2:])
    assert chosen(*file, "--layers", 2, "--exclude", by_score[0]) == sorted(by_score[1:3])
    assert chosen(*file, "--layers", 1, "--copies", 2) == [by_score[0]] * 2
    assert chosen("--strategy", "uniform", "--layers", 2) == [1, 4]
    assert chosen("--after", "2,2,3") == [2, 2, 3]
    assert len(chosen(*file, "--trainable", "45%")) > len(chosen(*file, "--trainable", "0.25"))
    assert chosen(*file, "--layers", 2, "--strategy", "cost_aware")

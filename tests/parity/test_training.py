"""Training against the same steps written in PyTorch on transformers modules, and resuming through the program."""

import collections
import json
import math
import random
import re
import shutil
import signal
import subprocess
import time

import pytest
import text_models
import tiny_models
import torch
from conftest import BUILD, run_program
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from text_models import one_thread  # noqa: F401, an automatic fixture

STEPS, SEQ_LEN, PROBE_BATCH = 20, 32, 3
TRAIN = dict(
    learning_rate=3e-3, lr_scheduler="cosine", warmup_steps=4, min_lr_ratio=0.2, max_steps=STEPS, batch_size=3,
    grad_accum=2, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95, adam_eps=1e-8, max_grad_norm=0.4, logging_steps=1,
    save_steps=0,
)  # fmt: skip
UNIT_LR = dict(policy="reference", update_every=7, probe_tokens=100_000)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_config(path, **keys):
    path.write_text(json.dumps({"dtype": "fp32", **keys}, indent=1))  # JSON is YAML too
    return path


# 20 steps written out.


def unit_names(model, layers):
    return {
        f"model.layers.{l}.{unit}": parameter
        for l in layers
        for unit, parameter in model.model.layers[l].named_parameters()
    }


def mean_loss(model, batches, num_targets):
    """Sum of the batches' token losses over `num_targets`, as one graph per batch; yields them one by one."""
    for rows in batches:
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        targets = torch.tensor([row[1:] + [-100] * (length - len(row) + 1) for row in rows])
        logits = model(ids, use_cache=False).logits
        yield torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / num_targets


def count_targets(rows):
    return sum(len(row) - 1 for row in rows)


def documents_of(line):
    """The documents that share a sequence, or their parts in it, each as a row of its own."""
    edges = [0, *line["document_starts"], len(line["tokens"])]
    return [line["tokens"][begin:end] for begin, end in zip(edges, edges[1:])]


def unit_importance(model, copies, probe, of_sources):
    """I_u = mean of |theta g|, theta being what takes effect; before the first step that of the source layers."""
    offset = tiny_models.gain_offset(model.config.model_type)
    scored = {copy: copy - 1 if of_sources else copy for copy in copies}  # a copy is directly behind its source
    sums = collections.Counter()
    for rows in probe:
        model.zero_grad()
        next(mean_loss(model, [rows], count_targets(rows))).backward()
        for copy, layer in scored.items():
            for unit, p in model.model.layers[layer].named_parameters():
                theta = p.detach() + (offset if unit.endswith("norm.weight") else 0)
                sums[f"model.layers.{copy}.{unit}"] += count_targets(rows) * (theta * p.grad).abs().mean().item()
    total = sum(map(count_targets, probe))
    return {name: value / total for name, value in sums.items()}


def reference_weights(importance):
    low, high = min(importance.values()), max(importance.values())
    return {name: 2 * (high - value) / (high - low) for name, value in importance.items()}


def schedule(step):
    warmup, ratio = TRAIN["warmup_steps"], TRAIN["min_lr_ratio"]
    if step < warmup:
        return (step + 1) / warmup
    return ratio + (1 - ratio) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


def adamw(parameters):
    """One group for each parameter, by name; matrices decay."""
    return torch.optim.AdamW(
        [
            {"params": [p], "name": name, "weight_decay": TRAIN["weight_decay"] if p.dim() >= 2 else 0.0}
            for name, p in parameters.items()
        ],
        betas=(TRAIN["adam_beta1"], TRAIN["adam_beta2"]),
        eps=TRAIN["adam_eps"],
    )


def take_steps(model, trained, optimizer, sequences, rate_of, before=lambda step: None):
    """STEPS steps, each over one global batch in micro-batches, clipped; the losses and the norms before clipping.

    A sequence is a list of documents, which are computed apart from each other."""
    losses, norms = [], []
    per_step = TRAIN["batch_size"] * TRAIN["grad_accum"]
    for step in range(STEPS):
        before(step)
        rows = sequences[step * per_step : (step + 1) * per_step]
        micro_batches = [sum(rows[i : i + TRAIN["batch_size"]], []) for i in range(0, per_step, TRAIN["batch_size"])]
        model.zero_grad()
        loss = 0.0
        for part in mean_loss(model, micro_batches, count_targets(sum(rows, []))):
            part.backward()
            loss += part.item()
        losses.append(loss)
        norms.append(torch.nn.utils.clip_grad_norm_(list(trained.values()), TRAIN["max_grad_norm"]).item())
        for group in optimizer.param_groups:
            group["lr"] = rate_of(group["name"], step)
        optimizer.step()
    return losses, norms


def train_in_pytorch(directory, copies, sequences, probe):
    model = text_models.load(directory, torch.float32)
    units = unit_names(model, copies)
    optimizer = adamw(units)
    importances, weights = {}, {}

    def rate_of(name, step):
        return TRAIN["learning_rate"] * schedule(step) * weights[name]

    def before(step):
        if step % UNIT_LR["update_every"] == 0:
            importances[step] = unit_importance(model, copies, probe, of_sources=step == 0)
            weights.update(reference_weights(importances[step]))

    losses, norms = take_steps(model, units, optimizer, sequences, rate_of, before)
    return model, losses, norms, importances


def check_mixture(lines, documents):
    """What the loader gave is the documents, shuffled, each followed by EOS, cut every SEQ_LEN; in the given shares."""
    per_epoch = {}
    for name, texts in documents.items():
        ids = [text_models.encode(text) for text in texts]
        per_epoch[name] = -(-sum(len(i) + 1 for i in ids) // SEQ_LEN)
        given = [line["tokens"] for line in lines if line["source"] == name]
        assert len(given) > per_epoch[name], "the test should see a second epoch"
        stream = [token for tokens in given[: per_epoch[name]] for token in tokens]
        ends = [i for i, token in enumerate(stream) if token == text_models.EOS]
        cut = [stream[begin + 1 : end] for begin, end in zip([-1] + ends, ends)]
        assert ends[-1] == len(stream) - 1 and sorted(cut) == sorted(ids) and cut != ids
    shares = collections.Counter(line["source"] for line in lines)
    assert abs(shares["domain"] - 0.7 * len(lines)) < 1


@pytest.mark.parametrize(
    "name, after, mask", [("llama_biases", [0, 2], False), ("qwen3_layer_types", [1], True), ("gemma3", [0, 1], True), ("gemma2", [0, 1, 2], True), ("granite_biases_tied", [0, 2], True), ("olmo2", [0, 2], True),
                          ("phi3", [1], False)]
)
def test_twenty_steps_equal_pytorch(name, after, mask, tmp_path):
    base = text_models.save(name, tmp_path / "base")
    expanded = tmp_path / "expanded"
    run_program("adept", "expand", "--model", base, "--out", expanded, "--after", ",".join(map(str, after)))
    copies = [source + i + 1 for i, source in enumerate(after)]
    documents = {kind: text_models.sentences(kind, n) for kind, n in (("domain", 50), ("general", 15))}
    for kind, texts in documents.items():
        text_models.write_jsonl(tmp_path / f"{kind}.jsonl", texts)
    probe_texts = text_models.sentences("general", 8, seed=5)
    text_models.write_jsonl(tmp_path / "probe.jsonl", probe_texts)
    config = write_config(
        tmp_path / "train.yaml",
        model=str(expanded),
        output_dir=str(tmp_path / "run"),
        seq_len=SEQ_LEN,
        threads=1,
        data={
            "train": [
                {"name": "domain", "path": str(tmp_path / "domain.jsonl"), "weight": 0.7},
                {"name": "general", "path": str(tmp_path / "general.jsonl"), "weight": 0.3},
            ],
            "general": [{"name": "probe", "path": str(tmp_path / "probe.jsonl")}],
            "document_mask": mask,
        },
        probe={"batch_size": PROBE_BATCH},
        train=TRAIN,
        unit_lr=UNIT_LR,
    )
    run_program("adept", "train", config)

    num_sequences = STEPS * TRAIN["batch_size"] * TRAIN["grad_accum"]
    printed = run_program("loader_tool", config, tmp_path / "cache", num_sequences).stdout
    lines = [json.loads(line) for line in printed.splitlines()]
    check_mixture(lines, documents)
    assert mask == any(line["document_starts"] for line in lines)
    sequences = [documents_of(line) for line in lines]
    windows = [ids for ids, _ in text_models.windows(map(text_models.encode, probe_texts), SEQ_LEN)]
    windows.sort(key=len, reverse=True)  # batches of similar length; they enter the mean over batches
    probe = [windows[i : i + PROBE_BATCH] for i in range(0, len(windows), PROBE_BATCH)]
    model, losses, norms, importances = train_in_pytorch(expanded, copies, sequences, probe)
    assert max(norms) > TRAIN["max_grad_norm"], "clipping should take part"

    log = read_lines(tmp_path / "run" / "trainer_log.jsonl")
    assert [line["current_steps"] for line in log] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in log] == pytest.approx(losses, rel=1e-4)
    assert [line["grad_norm"] for line in log] == pytest.approx(norms, rel=1e-3)
    assert [line["lr"] for line in log] == pytest.approx([TRAIN["learning_rate"] * schedule(s) for s in range(STEPS)])
    assert log[-1]["total_tokens"] == sum(len(line["tokens"]) for line in lines)
    records = read_lines(tmp_path / "run" / "parameter_importance.jsonl")
    assert [record["step"] for record in records] == [0, 7, 14]
    for record in records:
        expected = importances[record["step"]]
        assert record["importance"] == pytest.approx(expected, rel=1e-3)
        assert record["lr_weight"] == pytest.approx(reference_weights(expected), abs=2e-3)
        assert min(record["lr_weight"].values()) == 0 and max(record["lr_weight"].values()) == 2

    result = tmp_path / "run" / "model"
    start, ours = load_file(expanded / "model.safetensors"), load_file(result / "model.safetensors")
    units = unit_names(model, copies)
    assert set(start) == set(ours) and set(units) <= set(start)
    for key, tensor in start.items():
        if key not in units:
            assert torch.equal(ours[key].view(torch.uint8), tensor.view(torch.uint8)), key
            continue
        moved = (units[key].detach() - tensor).square().mean().sqrt().item()
        apart = (units[key].detach() - ours[key]).square().mean().sqrt().item()
        assert apart <= 1e-3 * moved, key
    check_exported_logits(result, tmp_path)


# The same for the methods that train something else than copies.

LORA = dict(rank=4, alpha=12.0, target_modules=["q_proj", "v_proj", "down_proj"])


def random_uniform(seed, stream, counter):
    """The engine's counter-based generator: SplitMix64's finaliser, nested."""

    def mix(x):
        mask = (1 << 64) - 1
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    return (mix(mix(mix(seed) ^ stream) ^ counter) >> 11) * 2.0**-53


class Adapted(torch.nn.Module):
    """A frozen projection and what LoRA adds to it, as peft computes it."""

    def __init__(self, linear, rank, alpha, draw):
        super().__init__()
        self.linear, self.scale = linear, alpha / rank
        bound = linear.in_features**-0.5
        start = [bound * (2 * draw() - 1) for _ in range(rank * linear.in_features)]
        self.lora_A = torch.nn.Parameter(torch.tensor(start).view(rank, linear.in_features))
        self.lora_B = torch.nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x):
        return self.linear(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scale


def trained_parameters(model, method):
    """By name, in the order of the checkpoint, and what merges LoRA at the end."""
    if method == "lora":
        model.requires_grad_(False)
        counter = iter(range(10**9))
        adapters = {}
        for l, layer in enumerate(model.model.layers):
            for path in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):  # fmt: skip
                block, name = path.split(".")
                if name not in LORA["target_modules"]:
                    continue
                adapted = Adapted(getattr(getattr(layer, block), name), LORA["rank"], LORA["alpha"],
                                  lambda: random_uniform(42, 6, next(counter)))  # fmt: skip
                setattr(getattr(layer, block), name, adapted)
                adapters[f"model.layers.{l}.{path}"] = adapted
        return {f"{name}.lora_{side}.weight": getattr(a, f"lora_{side}") for name, a in adapters.items() for side in "AB"}
    names = dict(model.named_parameters())
    if method == "top_k_layers":
        last = model.config.num_hidden_layers - 1
        names = {name: p for name, p in names.items() if name.startswith(f"model.layers.{last}.")}
    return names


@pytest.mark.parametrize("method", ["full", "lora", "top_k_layers"])
@pytest.mark.parametrize("name", ["llama_tied", "qwen2_max_window_layers"])
def test_twenty_steps_of_every_method_equal_pytorch(name, method, tmp_path):
    base = text_models.save(name, tmp_path / "base")
    text_models.write_jsonl(tmp_path / "domain.jsonl", text_models.sentences("domain", 40))
    config = write_config(
        tmp_path / "train.yaml", model=str(base), output_dir=str(tmp_path / "run"), seq_len=SEQ_LEN, threads=1,
        method=method, data={"train": [{"name": "domain", "path": str(tmp_path / "domain.jsonl")}]},
        train=TRAIN | {"save_steps": 1, "save_total_limit": 100}, lora=LORA, top_k_layers={"num_layers": 1},
    )  # fmt: skip
    run_program("adept", "train", config)
    per_step = TRAIN["batch_size"] * TRAIN["grad_accum"]
    printed = run_program("loader_tool", config, tmp_path / "cache", STEPS * per_step).stdout
    sequences = [documents_of(json.loads(line)) for line in printed.splitlines()]

    model = text_models.load(base, torch.float32)
    trained = trained_parameters(model, method)
    optimizer = adamw(trained)
    start = {key: p.detach().clone() for key, p in trained.items()}
    losses, norms = take_steps(
        model, trained, optimizer, sequences, lambda name, step: TRAIN["learning_rate"] * schedule(step)
    )

    log = read_lines(tmp_path / "run" / "trainer_log.jsonl")
    assert [line["loss"] for line in log] == pytest.approx(losses, rel=1e-4)
    assert [line["grad_norm"] for line in log] == pytest.approx(norms, rel=1e-3)
    ours = load_file(tmp_path / "run" / f"checkpoint-{STEPS}" / "trainable.safetensors")
    assert set(ours) == set(trained)
    for key, p in trained.items():
        moved = (p.detach() - start[key]).square().mean().sqrt().item()
        apart = (p.detach() - ours[key]).square().mean().sqrt().item()
        assert moved > 0 and apart <= 2e-3 * moved, key

    ids, _ = tiny_models.random_batch(tiny_models.COMMON["vocab_size"])
    with torch.no_grad():
        exported, peer = text_models.load(tmp_path / "run" / "model")(ids).logits, model(ids).logits
    assert ((exported - peer).abs().max() / peer.abs().max()).item() <= 2e-4
    check_exported_logits(tmp_path / "run" / "model", tmp_path)


def check_exported_logits(directory, folder):
    ids, targets = tiny_models.random_batch(tiny_models.COMMON["vocab_size"])
    save_file({"ids": ids, "targets": targets}, folder / "input.safetensors")
    run_program("decoder_tool", directory, folder / "input.safetensors", folder / "output.safetensors")
    ours = load_file(folder / "output.safetensors")["logits"]
    with torch.no_grad():
        peer = text_models.load(directory)(ids).logits
    assert torch.isfinite(peer).all()
    assert ((ours - peer).abs().max() / peer.abs().max()).item() <= 2e-4


# Resuming. One uninterrupted run is what all others must equal, byte for byte.

RUN_STEPS = 24


def run_config(folder, output_dir, model=None):
    return write_config(
        folder / f"{output_dir.name}.yaml",
        model=str(model or folder / "base"),
        keep_expanded=True,
        output_dir=str(output_dir),
        seq_len=96,
        threads=1,
        data={
            "train": [
                {"name": "domain", "path": str(folder / "domain.jsonl"), "weight": 0.75},
                {"name": "replay", "path": str(folder / "replay.jsonl"), "weight": 0.25},
            ],
            "general": [{"name": "probe", "path": str(folder / "probe.jsonl")}],
            "eval": [{"name": "held-out", "path": str(folder / "probe.jsonl"), "role": "general"}],
        },
        probe={"batch_size": 2},
        expand={"num_layers": 2},
        train={
            "learning_rate": 1e-3, "max_steps": RUN_STEPS, "batch_size": 8, "grad_accum": 2, "save_steps": 2,
            "save_total_limit": 3, "logging_steps": 1, "weight_decay": 0.01, "report_to": ["tensorboard"],
        },
        unit_lr={"update_every": 5, "probe_tokens": 1000},
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    text_models.save("llama_tied", folder / "base")
    text_models.write_jsonl(folder / "domain.jsonl", text_models.sentences("domain", 150))
    text_models.write_jsonl(folder / "replay.jsonl", text_models.sentences("general", 60))
    text_models.write_jsonl(folder / "probe.jsonl", text_models.sentences("general", 12, seed=3))
    process = run_program("adept", "run", run_config(folder, folder / "straight"))
    return folder, process


def num_lines(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def run_until(arguments, ready, kill):
    """Starts the program and sends it a signal as soon as `ready`; its exit code (negative: killed) and messages."""
    process = subprocess.Popen(
        [BUILD / "adept", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not ready():
        time.sleep(0.001)
    process.send_signal(kill)
    messages = process.communicate()[1]
    return process.returncode, messages


def assert_same_run(found, expected):
    assert (found / "model" / "model.safetensors").read_bytes() == (
        expected / "model" / "model.safetensors"
    ).read_bytes()
    last = f"checkpoint-{RUN_STEPS}"
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        assert (found / last / file).read_bytes() == (expected / last / file).read_bytes(), file
    assert (found / "parameter_importance.jsonl").read_text() == (expected / "parameter_importance.jsonl").read_text()
    logs = [read_lines(run / "trainer_log.jsonl") for run in (found, expected)]
    for a, b in zip(*logs, strict=True):
        for key in ("current_steps", "loss", "lr", "grad_norm", "epoch", "total_tokens"):
            assert a[key] == b[key], (key, a, b)
    assert_in_tensorboard(found)


def read_tensorboard(folder):
    """{tag: [(step, value)]} as TensorBoard shows them."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    scalars = {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    for tag in reader.Tags()["tensors"]:
        scalars[tag] = [(event.step, tensor_util.make_ndarray(event.tensor_proto).item()) for event in reader.Tensors(tag)]
    return scalars


def assert_in_tensorboard(run):
    """TensorBoard shows every number of trainer_log.jsonl, each once."""
    expected = collections.defaultdict(list)
    for line in read_lines(run / "trainer_log.jsonl"):
        step = line.pop("current_steps")
        is_evaluation = "eval_loss" in line
        for key, value in {**line, **{f"memory_bytes/{k}": v for k, v in line.get("memory_bytes", {}).items()}}.items():
            if isinstance(value, (int, float)) and key not in ("total_steps", "percentage"):
                if key.startswith("eval_"):
                    expected["eval/" + key.removeprefix("eval_")].append((step, value))
                elif not is_evaluation:
                    expected["train/" + key].append((step, value))
    found = read_tensorboard(run / "runs")
    assert found.keys() == expected.keys() and "train/loss" in found
    for tag, values in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in values], tag
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in values], rel=1e-6), tag


def test_a_run_that_is_killed_and_repeated_is_the_uninterrupted_run(straight):
    folder, _ = straight
    out = folder / "killed"
    config = run_config(folder, out)
    log, moments = out / "trainer_log.jsonl", random.Random(7)
    points = [
        (lambda: any(out.glob("data/*.tokens")), signal.SIGKILL),
        (lambda: (out / "eval_base.json").exists(), signal.SIGKILL),
        (lambda: (out / "importance.json").exists(), signal.SIGKILL),
    ]
    # In training: within a few steps of each other, so that signals hit steps, importance updates and checkpoints.
    for at in (1, 4, 6, 11, 13):
        points.append((lambda at=at: num_lines(log) >= at, moments.choice([signal.SIGKILL, signal.SIGTERM])))
    codes = []
    for ready, kill in points:
        code, messages = run_until(["run", config], ready, kill)
        codes.append(code)
        if kill == signal.SIGTERM and code != 0:
            assert code == 143 and "terminated (SIGTERM)" in messages
    assert -signal.SIGKILL in codes[3:] and 143 in codes[3:], codes
    assert run_program("adept", "run", config).returncode == 0
    assert_same_run(out, folder / "straight")


def test_tensorboard_shows_evaluations_and_a_run_that_was_begun_again(straight):
    folder, _ = straight
    out = folder / "evaluated"
    command = ["run", run_config(folder, out), "--set", "train.max_steps=9", "--set", "train.save_steps=3", "--set", "train.eval_steps=2"]
    code, _ = run_until(command, lambda: num_lines(out / "trainer_log.jsonl") >= 2, signal.SIGKILL)  # before a checkpoint
    assert code == -signal.SIGKILL
    code, _ = run_until(command, lambda: num_lines(out / "trainer_log.jsonl") >= 10, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert run_program("adept", *command).returncode == 0
    assert_in_tensorboard(out)
    assert [step for step, _ in read_tensorboard(out / "runs")["eval/held-out_loss"]] == [2, 4, 6, 8]


def test_training_resumes_after_interrupts_only_when_told_to(straight):
    folder, _ = straight
    out = folder / "trained"
    config = run_config(folder, out, model=folder / "straight" / "expanded")
    log = out / "trainer_log.jsonl"
    code, messages = run_until(["train", config], lambda: num_lines(log) >= 3, signal.SIGINT)
    assert code == 130
    step = num_lines(log)
    assert f"error: interrupted (SIGINT); saved step {step} of {RUN_STEPS} in {out}; the same command with --resume continues" in messages
    assert (out / f"checkpoint-{step}" / "trainer_state.json").is_file()

    refused = run_program("adept", "train", config, check=False)
    assert refused.returncode == 2
    assert f"error: {out}: contains checkpoint-{step} of an earlier run. Continue that run with --resume" in refused.stderr

    code, _ = run_until(["train", config, "--resume"], lambda: num_lines(log) >= 9, signal.SIGKILL)
    assert code == -signal.SIGKILL
    resumed = run_program("adept", "train", config, "--resume")
    assert "resuming after step" in resumed.stderr and "contains no checkpoint" not in resumed.stderr
    assert_same_run(out, folder / "straight")

    elsewhere = folder / "elsewhere"
    fresh = run_program("adept", "train", config, "--resume", "--set", f"output_dir={elsewhere}", "--set", "train.max_steps=1")
    assert f"--resume: {elsewhere} contains no checkpoint" in fresh.stderr


def test_a_damaged_checkpoint_is_passed_over(straight):
    folder, _ = straight
    out = folder / "damaged"
    shutil.copytree(folder / "straight", out)
    shutil.rmtree(out / "model")
    newest = out / f"checkpoint-{RUN_STEPS}"
    tensors = bytearray((newest / "trainable.safetensors").read_bytes())
    tensors[-100] ^= 1
    (newest / "trainable.safetensors").write_bytes(tensors)
    process = run_program("adept", "run", run_config(folder, out))
    assert f"warning: {newest}: skipped, because it is damaged: " in process.stderr
    assert "does not match its checksum" in process.stderr
    assert f"resuming from {out}/checkpoint-{RUN_STEPS - 2}" in process.stderr
    assert_same_run(out, folder / "straight")


def test_dial_zero_is_the_base_and_one_the_trained_model(straight):
    folder, _ = straight
    trained = folder / "straight" / "model"
    general, domain = ["--general", folder / "probe.jsonl"], ["--domain", folder / "domain.jsonl"]

    def dial(out, *arguments):
        process = run_program("adept", "dial", "--model", trained, *general, *domain, "--out", folder / out, "--seq-len", 96,
                              "--threads", 1, "--dtype", "fp32", *arguments)  # fmt: skip
        return process, json.loads((folder / out / "adept_dial.json").read_text())

    ids, _ = tiny_models.random_batch(tiny_models.COMMON["vocab_size"])
    with torch.no_grad():
        base = text_models.load(folder / "base", torch.float32)(ids).logits
        _, zero = dial("dial-0", "--general-weight", "1e9", "--points", 2)
        _, one = dial("dial-1", "--max-general-rise", 100)
        low = text_models.load(folder / "dial-0", torch.float32)(ids).logits
    # A weight that large keeps the base unless the loss of general text falls too.
    if zero["chosen"]["alphas"] == [0, 0]:
        assert (low - base).abs().max().item() == 0
    assert one["chosen"]["alphas"] == [1, 1]
    assert (folder / "dial-1" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert [point["alpha"] for point in one["curve"]] == pytest.approx([i / 10 for i in range(11)])
    for name, model, text in (("general_loss", folder / "base", "probe"), ("domain_loss", folder / "base", "domain")):
        run_program("adept", "eval", "--model", model, "--data", f"x={folder / text}.jsonl", "--seq-len", 96, "--out",
                    folder / "x.json", "--max-tokens", 16384, "--dtype", "fp32")  # fmt: skip
        loss = json.loads((folder / "x.json").read_text())["datasets"]["x"]["loss"]
        assert one["curve"][0][name] == pytest.approx(loss, rel=1e-5)
    process, _ = dial("dial-each", "--per-copy", "--points", 3)
    assert "copy of layer" in process.stdout and "not trained" not in process.stderr
    run_program("adept", "expand", "--model", folder / "base", "--after", "1", "--out", folder / "untrained")
    untrained = run_program("adept", "dial", "--model", folder / "untrained", *general, *domain, "--out", folder / "dial-none",
                            "--seq-len", 96, "--points", 3)  # fmt: skip
    assert "untrained: the losses are the same at every alpha; the copies are not trained." in untrained.stderr
    again = run_program("adept", "dial", "--model", trained, *general, *domain, "--out", folder / "dial-1", check=False)
    assert again.returncode == 1 and re.search(r"dial-1: already exists.*--force", again.stderr)
    plain = run_program("adept", "dial", "--model", folder / "base", *general, *domain, "--out", folder / "no", check=False)
    assert plain.returncode == 1 and "found no adept_expansion.json; expected a model with copies" in plain.stderr
    copies = json.loads((folder / "straight" / "copies.json").read_text())["held-out"]
    assert [copy["index"] for copy in copies["copies"]] == [
        copy["index"] for copy in json.loads((trained / "adept_expansion.json").read_text())["expanded_layers"]
    ]
    assert all(copy["contribution"] > 0 for copy in copies["copies"])

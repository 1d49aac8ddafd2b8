"""What `adept run` writes and prints, from text to exported model in one directory."""

import json
import os
import pathlib
import re

import pytest
import text_models
import torch
from conftest import run_program, says
from safetensors.torch import load_file
from whole_runs import STAGES, finished, kept, read_lines, run, table  # noqa: F401

LOG_KEYS = {"current_steps", "total_steps", "epoch", "percentage", "elapsed_time", "remaining_time", "throughput",
            "total_tokens"}  # fmt: skip


def test_every_documented_file_is_there(finished):
    out = finished[0] / "out"
    for name in (
        "config.yaml", "versions.json", "contamination.json", "eval_base.json", "importance.json", "trainer_log.jsonl",
        "parameter_importance.jsonl", "copies.json", "eval_model.json", "all_results.json", "checkpoint-4/trainer_state.json",
        "checkpoint-6/trainer_state.json", "model/model.safetensors", "model/adept_expansion.json",
        "model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "model/generation_config.json",
        "data/domain.tokens/store.json", "data/replay.tokens/store.json", "data/probe.tokens/store.json",
        "data/held-general.tokens/store.json", "data/held-domain.tokens/00000.tokens",
    ):  # fmt: skip
        assert (out / name).is_file(), name
    assert not [path.name for path in out.rglob("*") if ".tmp" in path.name] and not (out / "expanded").exists()
    assert set(json.loads((out / "versions.json").read_text())) >= {"adept", "commit", "torch", "compiler", "threads"}


def test_the_result_is_a_plain_deeper_model(finished, tmp_path):
    out = finished[0] / "out"
    model = text_models.load(out / "model")
    assert model.config.num_hidden_layers == 5
    tensors = load_file(out / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    layers = json.loads((out / "model" / "adept_expansion.json").read_text())["expanded_layers"]
    copies = [layer["index"] for layer in layers]
    after = ",".join(str(layer["source"]) for layer in layers)
    run_program("adept", "expand", "--model", finished[0] / "base", "--out", tmp_path / "expanded", "--after", after)
    expanded = load_file(tmp_path / "expanded" / "model.safetensors")
    changed = {name for name in tensors if not torch.equal(tensors[name], expanded[name])}
    assert changed and all(int(name.split(".")[2]) in copies for name in changed)


def test_records_have_the_keys_that_tools_read(finished):
    out = finished[0] / "out"
    log = read_lines(out / "trainer_log.jsonl")
    steps = [line for line in log if "loss" in line]
    evals = [line for line in log if "eval_loss" in line]
    assert [line["current_steps"] for line in steps] == [2, 4, 6]
    assert [line["current_steps"] for line in evals] == [3]
    for line in log:
        assert LOG_KEYS <= set(line) and line["total_steps"] == 6
    assert all(line["lr"] > 0 and line["grad_norm"] > 0 for line in steps)
    assert all(line["eval_loss"] == line["eval_held-general_loss"] for line in evals)
    assert all("eval_held-domain_loss" in line for line in evals)
    assert [line["percentage"] for line in steps] == pytest.approx([100 / 3, 200 / 3, 100])
    importance = read_lines(out / "parameter_importance.jsonl")
    assert [line["step"] for line in importance] == list(range(6))
    assert all(set(line["importance"]) == set(line["lr_weight"]) for line in importance)

    results = json.loads((out / "all_results.json").read_text())
    before, after = (json.loads((out / f"eval_{which}.json").read_text())["datasets"] for which in ("base", "model"))
    for name in ("held-general", "held-domain"):
        assert results[f"base_{name}_loss"] == before[name]["loss"]
        assert results[f"eval_{name}_loss"] == after[name]["loss"]
    assert results["train_steps"] == 6 and results["trained_parameters"] < results["all_parameters"]
    assert all(f"seconds_{stage}" in results for stage in STAGES) and results["peak_rss_bytes"] > 1e6


def test_the_table_and_the_counts_are_printed(finished):
    process = finished[1]
    for words in ("held-general (general)", "held-domain (domain)", "trained ", "tokens/s", "peak memory", "out/model"):
        assert words in process.stdout, words
    assert re.search(r"^  trained +[\d,]+ of [\d,]+ parameters \(\d+\.\d %\)$", process.stdout, re.M)
    rows = process.stderr.partition("skipped\n")[2].splitlines()[:7]
    counts = {row.split()[0]: row.split() for row in rows}
    assert counts["domain"][1:3] == ["3", "42"], "files and documents"
    assert counts["replay"][1:3] == ["1", "20"] and counts["probe"][1:3] == ["2", "20"]
    assert "domain: skipped 1 (1 blank line)" in process.stderr
    assert "domain: ignored 1 (1 file with extension .png)" in process.stderr
    assert "\r" not in process.stderr and "\x1b" not in process.stderr, "plain lines when piped"


def test_adept_eval_of_the_result_agrees(finished):
    folder = finished[0]
    run_program("adept", "eval", "--model", "out/model", "--data", "held-domain=domain.jsonl", "--out", "again.json",
                "--seq-len", 48, "--max-tokens", 600, "--dtype", "fp32", cwd=folder)  # fmt: skip
    again = json.loads((folder / "again.json").read_text())["datasets"]["held-domain"]
    assert again == json.loads((folder / "out" / "eval_model.json").read_text())["datasets"]["held-domain"]


def test_memory_and_speed_are_told_and_what_saves_them_changes_nothing(finished, tmp_path):
    folder, process = finished
    results = json.loads((folder / "out" / "all_results.json").read_text())
    memory = results["memory_bytes"]
    total = memory.pop("total")
    assert memory.pop("cache") == results["activation_cache"]["bytes"] > 0
    assert total in (sum(memory.values()), sum(memory.values()) - min(memory["gradients"], memory["activations"]))
    assert memory["masters"] == 4 * results["trained_parameters"] and memory["activations"] > 0
    for line in ("memory before training: ", "peak memory of the first step: ", "activation cache: "):
        assert line in process.stderr
    assert ", work space " in process.stderr and "on disk: activation cache" in process.stderr
    sources = results["train_sources"]
    assert sources.keys() == {"domain", "replay"} and sum(use["tokens"] for use in sources.values()) == results["train_tokens"]
    for name, use in sources.items():
        assert f"{name}: {use['tokens']:,} tokens in {use['sequences']} sequences, {use['epochs']:.2f} epochs" in process.stdout
    assert results["speed_of_light"] > 0 and re.search(r"tok/s \(\d+ % SOL\)", process.stderr)
    assert all(line["speed_of_light"] > 0 for line in read_lines(folder / "out" / "trainer_log.jsonl") if "loss" in line)
    logged = [line["memory_bytes"] for line in read_lines(folder / "out" / "trainer_log.jsonl") if "loss" in line]
    assert logged[-1] == json.loads((folder / "out" / "all_results.json").read_text())["memory_bytes"]
    assert not (folder / "out" / "activations.cache").exists()
    for setting in ("activation_checkpointing=full", "activation_cache=0"):
        out = tmp_path / setting
        run(folder, "--set", f"output_dir={out}", "--set", f"train.{setting}")
        weights = pathlib.Path("model", "model.safetensors")
        assert (out / weights).read_bytes() == (folder / "out" / weights).read_bytes()


def test_what_rounding_takes_is_told_and_can_be_kept(finished, tmp_path):
    """The base is in bf16, and a low rate changes less than its last bits."""
    folder = finished[0]
    low = ["--set", "method=full", "--set", "train.learning_rate=1e-5", "--set", "train.max_steps=2", "--set", "train.eval_steps=0"]
    rounded = run(folder, "--set", f"output_dir={tmp_path}/rounded", *low)
    kept = run(folder, "--set", f"output_dir={tmp_path}/kept", "--set", "export_dtype=fp32", *low)
    assert "rounding the trained tensors to the export dtype loses " in rounded.stderr
    assert "rounding the trained" not in kept.stderr
    record = json.loads((tmp_path / "kept" / "model" / "adept_training.json").read_text())
    assert record["rounding"] == 0
    model = text_models.load(tmp_path / "kept" / "model")
    assert model.dtype == torch.float32
    base = text_models.load(folder / "base", torch.float32)
    changed = (model.model.layers[0].mlp.up_proj.weight - base.model.layers[0].mlp.up_proj.weight).abs().max().item()
    assert 0 < changed <= 2.5e-5


def test_layers_can_be_chosen_by_hand_and_settings_on_the_command_line(finished, tmp_path):
    folder = finished[0]
    process = run(
        folder, "--set", f"output_dir={tmp_path}/run", "--set", "expand={after: [0]}", "--set", "dtype=bf16", "--set",
        "train.max_steps=2", "--set", "unit_lr.policy=uniform", "--set", "data.general=[]", "--set", "threads=2",
    )  # fmt: skip
    out = tmp_path / "run"
    assert not (out / "importance.json").exists() and "copy after layer 0" in process.stderr
    manifest = json.loads((out / "model" / "adept_expansion.json").read_text())
    assert manifest["expanded_layers"] == [{"source": 0, "index": 1}]
    config = (out / "config.yaml").read_text()
    for line in ("dtype: bf16", "  after: [0]", "  policy: uniform", "  max_steps: 2"):
        assert f"\n{line}\n" in config
    assert json.loads((out / "all_results.json").read_text())["train_steps"] == 2
    moved = load_file(out / "checkpoint-2" / "trainable.safetensors")
    assert {tensor.dtype for tensor in moved.values()} == {torch.float32}, "masters are fp32 whatever computes"
    assert all(tensor.isfinite().all() for tensor in moved.values())
    assert text_models.load(out / "model").config.num_hidden_layers == 4


def test_layers_chosen_by_hand_may_repeat_and_their_units_have_factors(finished, tmp_path):
    process = run(
        finished[0], "--set", f"output_dir={tmp_path}/run", "--set", "expand={after: [2, 2, 2, 2]}", "--set", "train.max_steps=1",
        "--set", "unit_lr.factors=[{units: model.layers.6.*, factor: 0}]",
    )  # fmt: skip
    weights = read_lines(tmp_path / "run" / "parameter_importance.jsonl")[0]["lr_weight"]
    assert {weight == 0 for unit, weight in weights.items() if unit.startswith("model.layers.6.")} == {True}, process.stderr


def test_a_source_stops_at_its_limit_and_the_training_at_that_of_all(finished, tmp_path):
    folder = finished[0]
    limits = ["--set", "data.train.0.epochs=0.5", "--set", "data.train.1.max_tokens=100"]
    long = [*limits, "--set", f"output_dir={tmp_path}/run", "--set", "train.max_steps=500"]
    refused = run(folder, *long, check=False)
    found = re.search(r"train.max_steps: found 500.* 2000 sequences.*\(epochs, max_tokens\).* (\d+); expected at most (\d+)", refused.stderr)
    assert refused.returncode == 2 and int(found[2]) == int(found[1]) // 4 > 0
    run(folder, *long, "--set", f"train.max_steps={found[2]}")
    sources = json.loads((tmp_path / "run" / "train_results.json").read_text())["train_sources"]
    assert sources["domain"]["epochs"] <= 0.5 + 1 / sources["domain"]["sequences"] and sources["replay"]["tokens"] <= 100
    assert sum(use["sequences"] for use in sources.values()) == 4 * int(found[2])


def test_evaluation_takes_a_sample_that_is_told_and_the_worth_of_copies_is_a_key(finished, tmp_path):
    folder, process = finished
    results = json.loads((folder / "out" / "eval_base.json").read_text())["datasets"]["held-domain"]
    after = json.loads((folder / "out" / "eval_model.json").read_text())["datasets"]["held-domain"]
    sample = results["text"]
    assert sample["is_sample"] and 590 < sample["tokens"] <= 600 < sample["all_tokens"] and sample["documents"] <= 20 == sample["all_documents"]
    assert after["text"] == sample
    words = f"{sample['tokens']} of {sample['all_tokens']:,} tokens in {sample['documents']} of 20 documents"
    assert f"held-domain: {words}\n" in process.stdout
    assert f"eval       held-domain: sample of {words}\n" in process.stderr
    copies = json.loads((folder / "out" / "copies.json").read_text())
    assert copies["held-domain"]["samples"]["held-domain"]["tokens"] == sample["all_tokens"], "4,096 are more than there are"
    out = tmp_path / "run"
    settings = ["--set", f"output_dir={out}", "--set", "train.max_steps=1"]
    run(folder, *settings, "--set", "eval.copies_tokens=100")
    assert json.loads((out / "copies.json").read_text())["held-domain"]["samples"]["held-domain"]["tokens"] <= 100
    without = run(folder, *settings, "--set", "eval.copies_tokens=0")
    assert not (out / "copies.json").exists() and "copies" not in without.stdout
    assert kept(without) == ["baseline", "probe", "expand", "train", "eval"]


def test_output_names_sources_and_units_and_can_be_quiet(finished, tmp_path):
    folder, process = finished
    lines = process.stderr.splitlines()
    last = {line.split()[0]: line for line in lines if re.search(r"  in \d+:\d\d$", line)}
    assert set(last) >= {"tokenize", "eval", "probe", "train", "copies"}
    for line in last.values():
        count = re.search(r"(?:^| )([\d,]+)/([\d,]+) (\w+)(?:  |$)", line)
        assert count and count[1] == count[2], line
    for words in (r"^tokenize   domain  [\d,]+/[\d,]+ kB", r"^eval       held-domain  \d+/\d+ sequences", r"^probe      probe  \d+/\d+ passes",
                  r"^train      6/6 steps", r"^eval       step 3, held-domain  \d+/\d+ sequences", r"^copies     held-domain  \d+/\d+ batches"):  # fmt: skip
        assert re.search(words, process.stderr, re.M), words
    assert sum(line.startswith("train ") for line in lines) == 1, "no second last line"
    assert not any(line.startswith("importance ") for line in lines if "/" in line), "at most a line a minute"
    quiet = run(folder, "--quiet", "--set", f"output_dir={tmp_path}/run")
    assert all("warning: data.eval" in line for line in quiet.stderr.splitlines()), "of text that is in both"
    assert table(quiet)[:5] == table(process)[:5]
    bad = run_program("adept", "eval", "--quiet", "--model", "base", "--data", "nothing.txt", cwd=folder, check=False)
    assert bad.returncode == 2 and bad.stderr.startswith("error: ")


def test_text_that_is_trained_and_measured_on_is_warned_of(finished, tmp_path):
    folder, process = finished[0], finished[1]
    warning = "is in both data.train"
    assert warning not in process.stderr
    same = "data.eval=[{name: same, path: ./general.jsonl.gz, text_field: body}]"
    again = run(folder, "--set", f"output_dir={tmp_path}/run", "--set", same, "--set", "train.max_steps=1")
    assert says(again.stderr, "./general.jsonl.gz: ...data.train (replay) ...data.eval (same)")
    replay = run(folder, "--set", f"output_dir={tmp_path}/replay", "--set", "data.replay=[{name: more, path: held.txt}]",
                 "--set", "train.replay_ratio=0.3", "--set", "train.max_steps=1")  # fmt: skip
    assert says(replay.stderr, "held.txt: ...data.replay (more) ...data.eval (held-general)")


def test_a_hub_id_is_found_in_the_cache(finished, tmp_path):
    folder = finished[0]
    repository = tmp_path / "hub" / "models--some--tiny-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123\n")
    (repository / "snapshots").mkdir()
    os.symlink(folder / "base", repository / "snapshots" / "abc123")
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_CACHE"}
    run(
        folder, "--set", "model=some/tiny-model", "--set", f"output_dir={tmp_path}/run", "--set", "train.max_steps=1",
        env={**environment, "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    by_path, by_id = (
        json.loads((path / "importance.json").read_text()) for path in (folder / "out", tmp_path / "run")
    )
    assert by_path == by_id

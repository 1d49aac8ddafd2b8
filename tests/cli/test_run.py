"""`adept run`, from text to exported model in one directory, and what it does when it is called again."""

import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import text_models
import torch
from conftest import BUILD, ROOT, run_program
from safetensors.torch import load_file, save_file

STAGES = ("baseline", "probe", "expand", "train", "eval", "copies")
LOG_KEYS = {"current_steps", "total_steps", "epoch", "percentage", "elapsed_time", "remaining_time", "throughput",
            "total_tokens"}  # fmt: skip


def base_config(**changes):
    """Paths are relative to the working directory, as users write them."""
    config = dict(
        model="base",
        output_dir="out",
        threads=1,
        dtype="fp32",
        seq_len=48,
        data={
            "train": [
                {"name": "domain", "path": ["notes", "more.txt.gz"], "weight": 0.8, "txt_record": "line"},
                {"name": "replay", "path": "general.jsonl.gz", "weight": 0.2, "text_field": "body"},
            ],
            "general": [{"name": "probe", "path": "probe-*.jsonl"}],
            "eval": [
                {"name": "held-general", "path": "held.txt", "role": "general", "txt_record": "paragraph"},
                {"name": "held-domain", "path": "domain.jsonl", "role": "domain"},
            ],
        },
        probe={"max_tokens": 1000},
        expand={"num_layers": 2},
        train={"max_steps": 6, "logging_steps": 2, "eval_steps": 3, "save_steps": 2, "learning_rate": 1e-3},
        unit_lr={"update_every": 1, "probe_tokens": 500},
        eval={"max_tokens": 600},
    )
    return {**config, **changes}


def make_inputs(folder):
    """A sharded bf16 model, and text of every kind that is read."""
    text_models.save("llama_tied", folder / "base", dtype=torch.bfloat16, max_shard_size="60KB")
    (folder / "notes" / "deep").mkdir(parents=True)
    (folder / "notes" / "a.txt").write_text("\n".join(text_models.sentences("domain", 20)).replace("\r", ""))
    text_models.write_jsonl(folder / "notes" / "deep" / "b.jsonl", text_models.sentences("domain", 20, seed=1))
    (folder / "notes" / "picture.png").write_bytes(b"\x89PNG")  # is no text; it is counted and left out
    with gzip.open(folder / "more.txt.gz", "wt") as file:
        file.write("one line of renal text\n\nanother line of renal text\n")
    with gzip.open(folder / "general.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"body": text}) + "\n" for text in text_models.sentences("general", 20))
    for i in range(2):
        text_models.write_jsonl(folder / f"probe-{i}.jsonl", text_models.sentences("general", 10, seed=10 + i))
    (folder / "held.txt").write_text("\n\n".join(text_models.sentences("general", 10, seed=20)))
    text_models.write_jsonl(folder / "domain.jsonl", text_models.sentences("domain", 20, seed=30))


def run(folder, *arguments, config=None, check=True, **options):
    if config is not None:
        (folder / "run.yaml").write_text(json.dumps(config, indent=1))
    return run_program("adept", "run", "run.yaml", *arguments, cwd=folder, check=check, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_inputs(folder)
    return folder, run(folder, config=base_config())


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def kept(process):
    return [line.split()[0] for line in process.stderr.splitlines() if line.endswith("unchanged, kept")]


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def table(process):
    """The printed table but for time and memory, which are those of this call too."""
    return [line for line in process.stdout.splitlines() if not line.startswith(("  time ", "  peak memory "))]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_inside_the_folder_of_its_text_is_not_read_as_text(finished):
    """The second call finds the first one's records, and models, there."""
    process = run_program("adept", "tokenize", "--model", "base", "--data", "all=.", "--on-bad-record", "skip", cwd=finished[0])
    assert "folder of an adept run" in process.stderr and "model folder" in process.stderr
    process = run(finished[0], "--set", "output_dir=notes", check=False)
    assert process.returncode == 2 and 'output_dir notes: is an input of the source "domain"' in process.stderr


def test_every_documented_file_is_there(finished):
    out = finished[0] / "out"
    for name in (
        "config.yaml", "versions.json", "eval_base.json", "importance.json", "trainer_log.jsonl",
        "parameter_importance.jsonl", "copies.json", "eval_model.json", "all_results.json", "checkpoint-4/trainer_state.json",
        "checkpoint-6/trainer_state.json", "model/model.safetensors", "model/adept_expansion.json",
        "model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "model/generation_config.json",
        "data/domain.tokens", "data/replay.tokens", "data/probe.tokens", "data/held-general.tokens",
        "data/held-domain.tokens",
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


def test_a_second_call_keeps_every_stage(copied, finished):
    process = run(copied)
    assert kept(process) == list(STAGES)
    assert table(process) == table(finished[1])
    assert process.stdout.count("(kept)") == len(STAGES)


def test_text_is_known_by_its_contents_wherever_it_is(copied):
    (copied / "notes").rename(copied / "moved")
    (copied / "more.txt.gz").rename(copied / "other.txt.gz")
    (copied / "held.txt").rename(copied / "kept.txt")
    process = run(copied, "--set", "data.train.0.path=[moved, other.txt.gz]", "--set", "data.eval.0.path=kept.txt")
    assert kept(process) == list(STAGES)


def test_what_changed_is_done_again_and_nothing_else(copied):
    other_eval = run(copied, "--set", "eval.max_tokens=300")
    assert kept(other_eval) == ["probe", "expand", "train"]
    assert "eval.max_tokens" not in other_eval.stderr
    (copied / "domain.jsonl").write_text('{"text": "a few other words"}\n')
    assert kept(run(copied, "--set", "eval.max_tokens=300")) == ["probe", "expand", "train"]
    shutil.rmtree(copied / "out" / "model")
    again = run(copied, "--set", "eval.max_tokens=300")
    assert kept(again) == ["baseline", "probe", "eval", "copies"]
    assert "resuming after step 6 of 6" in again.stderr


def test_the_expanded_model_goes_after_training_and_is_made_again_where_it_is_needed(copied, finished):
    out = copied / "out"
    assert not (out / "expanded").exists()
    assert kept(run(copied)) == list(STAGES), "nothing is done again because it is gone"
    assert not (out / "expanded").exists()
    wanted = run(copied, "--set", "keep_expanded=true")
    assert kept(wanted) == ["baseline", "probe", "train", "eval", "copies"] and (out / "expanded" / "model.safetensors").exists()
    assert kept(run(copied)) == list(STAGES) and not (out / "expanded").exists()
    (out / "stages" / "train.json").unlink()  # as a kill just before the end leaves it
    again = run(copied)
    assert kept(again) == ["baseline", "probe", "eval", "copies"] and table(again) == table(finished[1])
    assert not (out / "expanded").exists()
    run_program("adept", "dial", "--model", "out/model", "--alpha", "0.5", "--out", "dialed", cwd=copied)


def test_the_dtype_auto_is_that_of_the_machine_and_then_of_the_run(finished, tmp_path):
    folder = finished[0]
    config = base_config(dtype="auto", expand={"after": [1]}, train={"max_steps": 2}, unit_lr={"policy": "uniform"})
    (folder / "auto.yaml").write_text(json.dumps(config))

    def run_auto(out, *arguments, **environment):
        return run_program("adept", "run", "auto.yaml", "--set", f"output_dir={tmp_path / out}", *arguments, cwd=folder,
                           env={**os.environ, **environment})  # fmt: skip

    first = run_auto("plain", ADEPT_INSTRUCTION_SET="generic")
    assert "dtype: fp32 (auto: this processor does not multiply bf16 natively)" in first.stderr
    assert "\ndtype: fp32\n" in (tmp_path / "plain" / "config.yaml").read_text()
    run_auto("narrow", "--dtype", "bf16")
    for out, dtype, environment in (("plain", "fp32", {}), ("narrow", "bf16", {"ADEPT_INSTRUCTION_SET": "generic"})):
        again = run_auto(out, **environment)
        assert f"dtype: {dtype} (auto: as in {tmp_path / out}/config.yaml, with which the run started)" in again.stderr
        assert kept(again) == ["baseline", "expand", "train", "eval", "copies"]
    refused = run_program("adept", "run", "auto.yaml", "--set", f"output_dir={tmp_path}/plain", "--dtype", "bf16", cwd=folder, check=False)
    assert refused.returncode == 2 and "dtype: was " in refused.stderr


def test_other_training_in_the_same_directory_is_refused_by_name(copied):
    before = snapshot(copied / "out")
    process = run(copied, "--set", "train.learning_rate=5e-4", "--set", "seed=1", check=False)
    assert process.returncode == 2
    assert process.stderr.endswith(
        "error: out/checkpoint-6: belongs to a different run:\n  seed: was 42, now 1\n"
        "  train.learning_rate: was 0.001, now 0.0005\n"
        "Resume with the same inputs, or start again in another output_dir.\n"
    )
    for change in ("seq_len=32", "expand.num_layers=1", "probe.max_tokens=500", "dtype=bf16"):
        process = run(copied, "--set", change, check=False)
        assert process.returncode == 2 and "another output_dir" in process.stderr, change
    assert snapshot(copied / "out") == before, "what is refused changes nothing, records included"
    other_text = copied / "notes" / "a.txt"
    other_text.write_text(other_text.read_text() + "\nmore")
    process = run(copied, "--set", "train.max_steps=1", check=False)
    assert process.returncode == 2
    assert 'source "domain": its data (text or tokenizer) has changed' in process.stderr
    assert "error: out/checkpoint-6: " in process.stderr


def test_a_result_that_was_damaged_or_lost_is_made_again(copied, finished):
    keep = ["--set", "keep_expanded=true"]
    run(copied, *keep)
    for name in ("model/model.safetensors", "expanded/model.safetensors"):
        path = copied / "out" / name
        whole = path.read_bytes()
        for spoil in (lambda: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])), path.unlink):
            spoil()
            process = run(copied, *keep)
            assert "repeating the stage" in process.stderr and path.read_bytes() == whole
            assert table(process) == table(finished[1])


@pytest.mark.parametrize("output_dir, model", [(".", "model"), ("base", "base"), ("runs/a", "runs/a/expanded"), (".", "./model/../model")])
def test_the_model_that_a_run_starts_from_is_never_overwritten(finished, tmp_path, output_dir, model):
    shutil.copytree(finished[0], tmp_path / "copy", ignore=shutil.ignore_patterns("out"))
    folder = tmp_path / "copy"
    (folder / model).parent.mkdir(parents=True, exist_ok=True)
    if model != "base":
        shutil.move(folder / "base", folder / model)
    before = snapshot(folder)
    process = run(folder, "--set", f"output_dir={output_dir}", "--set", f"model={model}", check=False)
    assert process.returncode == 2
    assert "would be overwritten. Choose another directory" in process.stderr or "which is the model" in process.stderr
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", ["model", "expanded"])
def test_what_others_put_into_the_directory_is_not_replaced(finished, tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / name / "thesis.txt").write_text("years of work")
    process = run(finished[0], "--set", f"output_dir={tmp_path}/run", check=False)
    assert process.returncode == 2 and "exists but is not the result of a run in" in process.stderr
    assert (tmp_path / "run" / name / "thesis.txt").read_text() == "years of work"


def test_models_that_other_commands_made_are_not_replaced(finished, tmp_path):
    folder = finished[0]
    for name in ("model", "expanded"):
        out = tmp_path / f"with_{name}"
        run_program("adept", "expand", "--model", folder / "base", "--out", out / name, "--after", "1", cwd=folder)
        before = snapshot(out)
        process = run(folder, "--set", f"output_dir={out}", check=False)
        assert process.returncode == 2
        assert f"output_dir: {out}/{name} exists but is not the result of a run in {out}. Choose another directory." in process.stderr
        assert snapshot(out) == before


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


def arguments_of_many_epochs(out):
    settings = [f"output_dir={out}", "train.max_steps=120", "train.save_steps=0", "train.eval_steps=0", "eval.max_tokens=200"]
    return ["run", "run.yaml", *(word for setting in settings for word in ("--set", setting))]


def test_an_interrupted_training_goes_on_with_its_activation_cache(finished, tmp_path):
    folder = finished[0]
    process = subprocess.Popen(
        [BUILD / "adept", *arguments_of_many_epochs(tmp_path / "run")], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "trainer_log.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 20):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    messages = process.communicate()[1]
    assert process.returncode == 143, messages
    cache = tmp_path / "run" / "activations.cache"
    assert cache.stat().st_size > 0
    run_program("adept", *arguments_of_many_epochs(tmp_path / "run"), cwd=folder)
    assert not cache.exists()
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["activation_cache"]["positions_read"] > results["activation_cache"]["positions_computed"]
    run_program("adept", *arguments_of_many_epochs(tmp_path / "whole"), "--set", "train.activation_cache=0", cwd=folder)
    weights = pathlib.Path("model", "model.safetensors")
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def on_a_disk_of(size, folder, *command):
    """`command`, to be run where `folder` is an empty disk, which goes with the process; skips where that needs rights."""
    for namespace in (["--mount"], ["--mount", "--map-root-user"]):
        mounted = ["unshare", *namespace, "sh", "-c", f"mount -t tmpfs -o size={size} none '{folder}' && exec \"$@\"", "sh"]
        if shutil.which("unshare") and subprocess.run([*mounted, "true"], capture_output=True).returncode == 0:
            return [*mounted, *command]
    pytest.skip("no disk can be made to fill")


def test_on_a_full_disk_the_activation_cache_makes_way_for_a_checkpoint(finished, tmp_path):
    """The disk has room for the files that stay and hardly more. The cache takes less than half of what is free, but with
    it there is no room for the checkpoint."""
    folder, disk = finished[0], tmp_path / "disk"
    text = ["--set", "data.train=[{name: domain, path: [notes, more.txt.gz], txt_record: line}]", "--set", "keep_expanded=true"]
    run_program("adept", *arguments_of_many_epochs(tmp_path / "whole"), *text, cwd=folder)
    pages = sum(-(-path.stat().st_size // 4096) for path in (tmp_path / "whole").rglob("*"))
    disk.mkdir()
    save = f"\"$@\" && cp '{disk}/run/model/model.safetensors' '{tmp_path}'"
    command = ["sh", "-c", save, "sh", BUILD / "adept", *arguments_of_many_epochs(disk / "run"), *text]
    process = subprocess.run(on_a_disk_of(4096 * pages * 104 // 100, disk, *command), cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert re.search(r"checkpoint-120.*: No space left on device\..* Retrying without the activation cache\.\n", process.stderr)
    expected = tmp_path / "whole" / "model" / "model.safetensors"
    assert (tmp_path / "model.safetensors").read_bytes() == expected.read_bytes()


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


def test_two_runs_in_one_directory_are_refused(finished, tmp_path):
    folder = finished[0]
    settings = ["--set", f"output_dir={tmp_path}/run", "--set", "train.max_steps=10000", "--set", "eval.max_tokens=300"]
    first = subprocess.Popen([BUILD / "adept", "run", "run.yaml", *settings], cwd=folder, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "run" / "config.yaml").exists():
        time.sleep(0.01)
    process = run(folder, *settings, check=False)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143
    assert process.returncode == 1 and f"process {first.pid} is using this folder" in process.stderr


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


def test_weights_of_the_text_that_decides_rates_decide_the_training(finished, tmp_path):
    """Also where the layers are chosen by hand, so that no probe depends on them."""
    def run_with(weight, **options):
        sources = [{"name": f"probe-{i}", "path": f"probe-{i}.jsonl", "weight": w} for i, w in enumerate((weight, 1))]
        return run(finished[0], "--set", f"output_dir={tmp_path}/run", "--set", "expand={after: [0]}", "--set", "train.max_steps=2",
                   "--set", f"data.general={json.dumps(sources)}", **options)  # fmt: skip

    run_with(1)
    assert "train" in kept(run_with(1))
    other = run_with(3, check=False)
    assert other.returncode == 2 and "probe_text" in other.stderr
    alone = ["--set", f"output_dir={tmp_path}/run", "--set", "method=full", "--set", "train.max_steps=2"]
    source = [{"name": "probe-0", "path": "probe-0.jsonl"}]
    for weight in ({}, {"weight": 3}):  # the weight of the only source, and of text that the method does not use
        process = run(finished[0], "--set", f"output_dir={tmp_path}/alone", *alone[2:], "--set", f"data.general={json.dumps([source[0] | weight])}")
    assert "train" in kept(process)


def test_a_source_stops_at_its_limit_and_the_training_at_that_of_all(finished, tmp_path):
    folder = finished[0]
    limits = ["--set", "data.train.0.epochs=0.5", "--set", "data.train.1.max_tokens=100"]
    long = [*limits, "--set", f"output_dir={tmp_path}/run", "--set", "train.max_steps=500"]
    refused = run(folder, *long, check=False)
    found = re.search(r"train.max_steps: found 500, which read 2000 sequences, but the limits of the sources \(epochs, max_tokens\) "
                      r"allow (\d+); expected at most (\d+), or a higher limit.", refused.stderr)  # fmt: skip
    assert refused.returncode == 2 and int(found[2]) == int(found[1]) // 4 > 0
    run(folder, *long, "--set", f"train.max_steps={found[2]}")
    sources = json.loads((tmp_path / "run" / "train_results.json").read_text())["train_sources"]
    assert sources["domain"]["epochs"] <= 0.5 + 1 / sources["domain"]["sequences"] and sources["replay"]["tokens"] <= 100
    assert sum(use["sequences"] for use in sources.values()) == 4 * int(found[2])


@pytest.mark.parametrize("method", ["full", "replay", "llama_pro", "lora", "top_k_layers"])
def test_another_method_is_one_word(finished, tmp_path, method):
    folder = finished[0]
    replay = "data.replay=[{name: more, path: general.jsonl.gz, text_field: body}]"
    arguments = ["--set", f"output_dir={tmp_path}/run", "--set", f"method={method}", "--set", replay,
                 "--set", "top_k_layers.num_layers=1"]  # fmt: skip
    process = run(folder, *arguments)
    out = tmp_path / "run"
    expands = method == "llama_pro"
    assert not (out / "expanded").exists() and not (out / "importance.json").exists()
    assert json.loads((out / "model" / "adept_training.json").read_text())["method"] == method
    share = re.search(r"more  .* ([0-9.]+)%$", process.stderr.split("share")[-1], re.MULTILINE)[1]
    assert share == ("25.00" if method == "replay" else "2.00")
    assert ("data.replay: 2 % of the training tokens are replay" in process.stderr) == (method != "replay")
    model = text_models.load(out / "model")
    assert model.config.num_hidden_layers == text_models.load(folder / "base").config.num_hidden_layers + 2 * expands
    ids = torch.arange(3, 27).view(2, 12)
    save_file({"ids": ids, "targets": ids.clone()}, tmp_path / "input.safetensors")
    run_program("decoder_tool", out / "model", tmp_path / "input.safetensors", tmp_path / "output.safetensors")
    ours = load_file(tmp_path / "output.safetensors")["logits"]
    with torch.no_grad():
        peer = text_models.load(out / "model", torch.float32)(ids).logits
    assert ((ours - peer).abs().max() / peer.abs().max()).item() <= 2e-4
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_held-domain_loss"] != results["base_held-domain_loss"]
    assert kept(run(folder, *arguments)) == ["baseline", *(["expand"] if expands else []), "train", "eval", *(["copies"] if expands else [])]


def compare_methods(folder, *arguments):
    environment = {**os.environ, "ADEPT_PYTHON": sys.executable, "ADEPT_BUILD": str(BUILD)}
    return subprocess.run([ROOT / "bench" / "methods", *map(str, arguments)], cwd=folder, capture_output=True, text=True, env=environment)


def test_methods_are_compared_by_one_command(finished, tmp_path):
    process = compare_methods(finished[0], "run.yaml", "--out", os.path.relpath(tmp_path / "all", finished[0]), "--method",
                              "full=1e-4", "--method", "lora", "--set", "train.max_steps=2", "--set", "train.eval_steps=0")  # fmt: skip
    assert process.returncode == 0, process.stderr
    rows = [line.split(" | ") for line in process.stdout.splitlines()]
    assert [row[0] for row in rows] == ["| method", "| ---", "| base", "| full", "| lora"]
    assert rows[0][1:3] == ["held-general, loss", "held-domain, loss"]
    results = json.loads((tmp_path / "all" / "full" / "all_results.json").read_text())
    assert rows[3][2].startswith(f"{results['eval_held-domain_loss']:.4f} (")
    assert "learning_rate: 0.0001" in (tmp_path / "all" / "full" / "config.yaml").read_text()
    assert rows[0][3] == "learning rate" and [row[3] for row in rows[3:]] == ["0.0001", "0.0002"]
    assert "learning_rate: 0.0002" in (tmp_path / "all" / "lora" / "config.yaml").read_text()


def test_a_comparison_says_its_rates_and_what_is_wrong_before_it_runs_anything(finished, tmp_path):
    help_text = compare_methods(finished[0], "--help").stdout
    for method, rate in {"adept": "2e-4", "llama_pro": "2e-4", "full": "2e-5", "replay": "2e-5", "lora": "2e-4", "top_k_layers": "5e-5"}.items():
        assert f"{method} {rate}" in help_text
    process = compare_methods(finished[0], "run.yaml", "--out", tmp_path / "all")
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith("bench/methods: replay:\n") and process.stderr.endswith("\nbench/methods: nothing was run\n")
    assert "data.replay: found nothing; expected general text" in process.stderr
    assert not (tmp_path / "all").exists()
    for word, message in {"fll": "found 'fll'; expected one of adept, ", "full=fast": "found the rate 'fast'; expected a number above 0"}.items():
        process = compare_methods(finished[0], "run.yaml", "--out", tmp_path / "all", "--method", word)
        assert process.returncode == 2 and message in process.stderr


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
    assert quiet.stderr == "" and table(quiet)[:5] == table(process)[:5]
    bad = run_program("adept", "eval", "--quiet", "--model", "base", "--data", "nothing.txt", cwd=folder, check=False)
    assert bad.returncode == 2 and bad.stderr.startswith("error: ")


def test_another_method_in_the_same_directory_leaves_nothing_of_the_first(copied):
    shutil.rmtree(copied / "out" / "checkpoint-6")
    shutil.rmtree(copied / "out" / "checkpoint-4")
    run(copied, "--set", "keep_expanded=true")
    assert all((copied / "out" / name).exists() for name in ("importance.json", "expanded", "copies.json", "parameter_importance.jsonl"))
    run(copied, "--set", "method=full")
    assert not any((copied / "out" / name).exists() for name in ("importance.json", "expanded", "copies.json", "parameter_importance.jsonl"))
    assert json.loads((copied / "out" / "model" / "adept_training.json").read_text())["method"] == "full"


def test_text_that_is_trained_and_measured_on_is_warned_of(finished, tmp_path):
    folder, process = finished[0], finished[1]
    warning = "is in both data.train"
    assert warning not in process.stderr
    same = "data.eval=[{name: same, path: ./general.jsonl.gz, text_field: body}]"
    again = run(folder, "--set", f"output_dir={tmp_path}/run", "--set", same, "--set", "train.max_steps=1")
    assert "./general.jsonl.gz: is in both data.train (replay) and data.eval (same)" in again.stderr
    replay = run(folder, "--set", f"output_dir={tmp_path}/replay", "--set", "data.replay=[{name: more, path: held.txt}]",
                 "--set", "train.replay_ratio=0.3", "--set", "train.max_steps=1")  # fmt: skip
    assert "held.txt: is in both data.replay (more) and data.eval (held-general)" in replay.stderr


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


@pytest.mark.parametrize("stage, file", [("baseline", "data/held-domain.tokens"), ("probe", "eval_base.json")])
def test_an_interrupt_stops_a_stage_and_the_next_call_goes_on(finished, stage, file, tmp_path):
    folder = finished[0]
    out = tmp_path / "run"
    text_models.write_jsonl(tmp_path / "long.jsonl", text_models.sentences("general", 1500))
    settings = [
        f"output_dir={out}", "train.max_steps=1", "eval.max_tokens=0", "probe.max_tokens=0",
        f"data.{'eval' if stage == 'baseline' else 'general'}.0.path={tmp_path}/long.jsonl",
    ]  # fmt: skip
    arguments = ["run", "run.yaml", *(word for setting in settings for word in ("--set", setting))]
    for delay in (0, 0.1, 0.3, 1, 3):  # a signal that comes before the stage is one of the stage before it
        shutil.rmtree(out, ignore_errors=True)  # whose file would be there before the program is ready for signals
        process = subprocess.Popen(
            [BUILD / "adept", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not (out / file).exists():
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        messages = process.communicate()[1]
        if "tokenized sources are kept" not in messages:
            break
    assert process.returncode == 130, messages
    done = "evaluation sets" if stage == "baseline" else "batches of the probe"
    kept_of_it = rf"error: interrupted \(SIGINT\); saved \d+ of \d+ {done}; the same command continues from there\n"
    assert re.search(kept_of_it, messages), messages
    assert json.loads((out / "stages" / f"{stage}.json").read_text())["interrupted"]
    assert not [path.name for path in out.rglob("*") if ".tmp" in path.name]
    before = ["baseline"] if stage == "probe" else []
    assert kept(run_program("adept", *arguments, cwd=folder)) == before

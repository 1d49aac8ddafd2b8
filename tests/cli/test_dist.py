"""Training by several processes gives what one gives."""

import json
import math
import pathlib
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import text_models
from conftest import run_program, says
from dist_runs import (  # noqa: F401
    EXACT, RELATIVE, command, config_of, exact_two, free_port, inputs, interrupted_after, losses,
    plain_variables, ranks_in, result, run, seen_in_stage, write_config,
)
from safetensors.numpy import load_file
from whole_runs import base_config, read_lines

METHODS = {
    "adept": {},
    "full": dict(method="full", unit_lr={"policy": "uniform"}),
    "lora": dict(method="lora", unit_lr={"policy": "uniform"}, lora={"rank": 4, "dropout": 0.1}),
    "bf16": dict(dtype="bf16"),
    "full_bf16": dict(method="full", unit_lr={"policy": "uniform"}, dtype="bf16"),
}


@pytest.fixture(scope="module", params=METHODS)
def one(request, inputs, tmp_path_factory):
    """A run by one process, and what a run by several needs to be the same."""
    folder = tmp_path_factory.mktemp(request.param) / "work"
    shutil.copytree(inputs, folder)
    run(folder, 1, config_of(1, train={"save_steps": 1}, **METHODS[request.param], **EXACT))
    return folder, METHODS[request.param]


def distance(found, expected, names):
    """The norm of the difference of these tensors together, relative to their norm."""
    difference = sum(np.square(found[name].astype(float) - expected[name]).sum() for name in names)
    return np.sqrt(difference / sum(np.square(expected[name].astype(float)).sum() for name in names))


@pytest.mark.parametrize("shares", [False, True])
def test_processes_give_the_losses_gradients_and_weights_of_one_on_the_same_batches(one, folder, shares):
    expected, changes = one
    run(folder, 2, config_of(2, train={"save_steps": 1}, dist={"shard_base": shares}, **changes))
    if changes.get("dtype") == "bf16":
        assert losses(folder) == pytest.approx(losses(expected), rel=1e-3)
        return
    assert losses(folder) == pytest.approx(losses(expected), rel=RELATIVE)
    first, last = 1, 6
    tensors = {(place, step, file): load_file(place / "out" / f"checkpoint-{step}" / f"{file}.safetensors")
               for place in (folder, expected) for step in (first, last) for file in ("trainable", "optimizer")}
    moments = [tensors[place, first, "optimizer"] for place in (folder, expected)]
    for name in moments[0]:
        if name.startswith("exp_avg.") and moments[1][name].any():  # after one step: 0.1 times the gradient
            assert distance(*moments, [name]) < RELATIVE, name
    for step, bound in ((first, RELATIVE), (last, 10 * RELATIVE)):  # each step starts from weights that differ more
        weights = [tensors[place, step, "trainable"] for place in (folder, expected)]
        assert weights[0].keys() == weights[1].keys()
        assert distance(*weights, weights[0]) < bound, step
        for name in weights[0]:  # AdamW divides small by small: single weights differ by more
            assert distance(*weights, [name]) < 1e-4, name


@pytest.mark.parametrize("processes", [2, 3])
def test_deterministic_processes_give_the_same_bits_as_one(one, folder, processes):
    expected, changes = one
    run(folder, processes, config_of(processes, **changes, **EXACT))
    assert losses(folder) == losses(expected)
    assert result(folder) == result(expected)


SHARED = {"deterministic": True, "shard_base": True, "timeout": 60}


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("recomputed", ["none", "full"])
def test_processes_that_share_the_frozen_layers_give_the_same_bits_as_one(one, folder, processes, recomputed):
    expected, changes = one
    changes = {**changes, "train": {"activation_checkpointing": recomputed}}
    process = run(folder, processes, config_of(processes, **changes, dist=SHARED))
    assert losses(folder) == losses(expected)
    assert result(folder) == result(expected)
    divided = "layers" if changes.get("method") == "full" else "frozen layers"
    assert f"\n{divided} are divided over {processes} processes: " in process.stderr
    assert not list(folder.glob("out/activations*"))


def test_a_step_with_fewer_micro_batches_than_processes_that_share_layers(inputs, tmp_path):
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        shutil.copytree(inputs, folder)
        # The last step has one micro-batch.
        config = config_of(processes, dist={**SHARED, "shard_base": processes > 1})
        config["train"]["max_steps"], config["train"]["num_train_epochs"] = None, 1
        run(folder, processes, config)
        results.append((losses(folder), result(folder)))
    assert results[0] == results[1]


# Layers of the model in each stage that has it in memory: the base, or the trained model with its copy.
DEPTHS = {"baseline": 16, "probe": 16, "train": 16, "eval": 17, "copies": 17}


def test_frozen_layers_take_the_share_of_one_process_in_every_stage(inputs, tmp_path):
    """Of a model whose layers are most of it."""
    weights = {}
    for processes in (1, 2, 4):
        folder = tmp_path / str(processes)
        shutil.copytree(inputs, folder)
        text_models.save("llama_tied", folder / "deep", num_hidden_layers=16)
        config = config_of(processes, model="deep", expand={"num_layers": 1}, unit_lr={"policy": "uniform"},
                           train={"max_steps": 1, "eval_steps": 0, "grad_accum": 1}, dist={"shard_base": processes > 1},
                           **{"eval": {"max_tokens": 300, "copies_tokens": 300}})
        run(folder, processes, config)
        results = json.loads((folder / "out" / "all_results.json").read_text())
        for stage in DEPTHS:
            weights[processes, stage] = results["memory_bytes" + f"_{stage}" * (stage != "train")]["weights"]
    layer = (weights[2, "train"] - weights[4, "train"]) / 4  # 16 layers / 2 - 16 layers / 4
    rest = weights[1, "train"] - 16 * layer
    assert rest > 0
    for stage, depth in DEPTHS.items():
        assert weights[1, stage] == pytest.approx(rest + depth * layer, rel=0.01), stage
        for processes in (2, 4):  # and two layers that are gathered
            assert weights[processes, stage] == pytest.approx(rest + (depth / processes + 2) * layer, rel=0.01), stage


def test_divided_layers_that_train_take_the_share_of_one_process(inputs, tmp_path):
    """Of a model with matrices of which several processes have parts. Another number of processes continues."""
    memory, results = {}, {}
    for processes in (1, 2, 3):
        folder = pathlib.Path(shutil.copytree(inputs, tmp_path / str(processes)))
        text_models.save("llama_tied", folder / "wide", num_hidden_layers=12, hidden_size=192, intermediate_size=600)
        config = config_of(processes, model="wide", method="full", unit_lr={"policy": "uniform"}, train={"eval_steps": 0},
                           dist={**SHARED, "shard_base": processes > 1})
        run(folder, processes, config)
        memory[processes] = json.loads((folder / "out" / "all_results.json").read_text())["memory_bytes"]
        results[processes] = losses(folder), result(folder)
    interrupted_after(folder, 4)
    run(folder, 2, {**config, "train": {**config["train"], "grad_accum": 3}})
    assert results[1] == results[2] == results[3] == (losses(folder), result(folder))

    tensors = load_file(folder / "wide" / "model.safetensors")
    layer = [tensor.size for name, tensor in tensors.items() if ".layers.0." in name]
    rest = memory[1]["masters"] - 12 * 4 * sum(layer)
    assert rest > 0 and memory[1]["weights"] == 0
    block = 1 << 14  # elements; parts consist of whole ones
    for processes in (2, 3):
        found = memory[processes]
        part = 4 * block * math.ceil(sum(math.ceil(size / block) for size in layer) / processes)
        gathered = 2 * part * processes
        assert found["weights"] + found["masters"] == rest + 12 * part + gathered
        # A third of few blocks: vectors take one as well.
        assert found["masters"] == found["gradients"] == pytest.approx(rest + 12 * 4 * sum(layer) / processes, rel=0.15)
        assert found["moments"] == pytest.approx(memory[1]["moments"] / processes, rel=0.15)


def test_layers_that_cannot_be_shared(folder):
    process = run(folder, 1, config_of(1, dist={"shard_base": True}), check=False)
    assert process.returncode == 2
    assert says(process.stderr, "dist.shard_base: found true in a run of one process; expected several")
    assert not (folder / "out").exists()


MEASURED = ["eval_base.json", "importance.json", "eval_model.json", "copies.json", "parameter_importance.jsonl"]


def measurements(folder):
    lines = read_lines(folder / "out" / "trainer_log.jsonl")
    during = [{key: value for key, value in line.items() if key.startswith("eval_")} for line in lines]
    return {name: (folder / "out" / name).read_bytes() for name in MEASURED}, [values for values in during if values]


@pytest.mark.parametrize("processes, dist, probe", [
    (2, EXACT["dist"], "mask_out"), (3, EXACT["dist"], "mask_out"), (2, SHARED, "mask_out"), (3, SHARED, "fisher"),
    (2, SHARED, "block_influence"), (3, SHARED, "gain"),
])  # fmt: skip
def test_processes_measure_the_same_bits_as_one(inputs, tmp_path, processes, dist, probe):
    method = {"expand": {"num_layers": 2, "strategy": "gain_per_cost"}} if probe == "gain" else {}
    results = []
    for count in (1, processes):
        folder = pathlib.Path(shutil.copytree(inputs, tmp_path / str(count)))
        # Batches of which some are left over, so that processes divide layers too.
        probed = dict(max_tokens=900, batch_size=4, **({} if method else {"method": probe}))
        run(folder, count, config_of(count, probe=probed, unit_lr={"update_every": 2}, dist=dist if count > 1 else EXACT["dist"],
                                     **{"eval": dict(max_tokens=600, copies_tokens=300, batch_size=2)}, **method))
        results.append((measurements(folder), losses(folder), result(folder)))
    assert results[0] == results[1]
    assert len(results[0][0][1]) == 1  # one evaluation during the training


def test_processes_that_would_measure_other_texts_are_named(inputs, tmp_path):
    folders = [pathlib.Path(shutil.copytree(inputs, tmp_path / str(rank))) for rank in range(2)]
    (folders[1] / "held.txt").write_text("Another text, which only this machine has.\n")
    port = free_port()
    ranks = []
    for rank, folder in enumerate(folders):
        write_config(folder, config_of(2))
        ranks.append(subprocess.Popen(command(1), cwd=folder, env=plain_variables(rank, port), stderr=subprocess.PIPE, text=True))
    for process in ranks:
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        line = next(line for line in errors.splitlines() if "tokens of data.eval (held-general): " in line)
        assert "rank 0: xxh3:" in line and "rank 1: xxh3:" in line
    assert not (folders[0] / "out" / "eval_base.json").exists()


def interrupted_in(folder, stage, config):
    """The exit code and what two processes wrote on a terminal until a signal in a stage, whose progress is shown there."""
    write_config(folder, config)
    return seen_in_stage(folder, command(2), stage, r"\S+", lambda process: process.send_signal(signal.SIGTERM))


@pytest.mark.parametrize("shares", [False, True])
def test_a_signal_in_a_divided_probe_ends_all_and_another_number_of_processes_continues(inputs, tmp_path, shares):
    folder = pathlib.Path(shutil.copytree(inputs, tmp_path / "work"))
    text_models.write_jsonl(folder / "probe-0.jsonl", text_models.sentences("general", 3000, seed=10))
    config = config_of(2, probe=dict(max_tokens=20_000, batch_size=4), train={"max_steps": 1})
    code, errors = interrupted_in(folder, "probe", {**config, "dist": {"shard_base": shares}})
    assert code == 143 and not ranks_in(folder)
    ended = r"error: terminated \(SIGTERM\); saved [1-9]\d* of \d+ batches of the probe"  # after progress on the same line, perhaps
    assert len(re.findall(ended, errors)) == 2 and re.search(r"\[rank 1\] " + ended, errors), errors
    assert not (folder / "out" / "importance.json").exists()
    assert says(run(folder, 1, config).stderr, "probe      resuming after")
    interrupted = (folder / "out" / "importance.json").read_bytes()
    shutil.rmtree(folder / "out")
    run(folder, 1, config)
    assert (folder / "out" / "importance.json").read_bytes() == interrupted


def test_machines_divide_the_sources_to_tokenize(folder):
    config = config_of(2)
    write_config(folder, config)
    port = free_port()
    machine = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    ranks = [subprocess.Popen(command(1), cwd=folder, env=plain_variables(rank, port, **machine), stderr=subprocess.PIPE, text=True)
             for rank in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    tokenized = [line.split()[1] for line in errors[0].splitlines() if line.startswith("tokenize ")]
    assert tokenized == ["domain", "probe", "held-domain"], "and the other process: replay, held-general"


def test_rows_of_new_tokens_that_few_micro_batches_read_add_up(inputs, tmp_path):
    """The embedding's rows get a gradient from some micro-batches of a rank only, perhaps from its last one alone."""
    folder = tmp_path / "work"
    shutil.copytree(inputs, folder)
    (folder / "tokens.txt").write_text("fever\n")
    text_models.save("gemma2_without_caps", folder / "untied")
    run_program("adept", "expand-vocab", "--model", "untied", "--tokens", "tokens.txt", "--out", "new", cwd=folder)
    documents = text_models.sentences("general", 300)
    text_models.write_jsonl(folder / "rare.jsonl", [text + " fever" * (i % 11 == 0) for i, text in enumerate(documents)])
    changes = dict(model="new", method="top_k_layers", top_k_layers={"num_layers": 1}, unit_lr={"policy": "uniform"}, seq_len=24)
    rows = {}
    for processes, shares in ((1, False), (2, False), (2, True)):
        config = config_of(processes, train={"train_new_embeddings": True}, dist={"shard_base": shares}, **changes)
        config["data"] = {**config["data"], "train": [{"name": "rare", "path": "rare.jsonl"}], "general": []}
        config["output_dir"] = f"out-{processes}-{shares}"
        run(folder, processes, config)
        out = folder / config["output_dir"]
        steps = [line for line in read_lines(out / "trainer_log.jsonl") if "loss" in line]
        tensors = load_file(out / "checkpoint-6" / "trainable.safetensors")
        rows[processes, shares] = tensors["model.embed_tokens.weight/new_tokens"], [line["grad_norm"] for line in steps]
    expected = rows.pop((1, False))
    for found in rows.values():
        assert found[1] == pytest.approx(expected[1], rel=1e-5)
        assert found[0] == pytest.approx(expected[0], rel=1e-3, abs=1e-5)


def test_an_epoch_that_is_no_multiple_of_a_step_gives_the_same_bits(folder, inputs, tmp_path):
    other = pathlib.Path(shutil.copytree(inputs, tmp_path / "one"))
    epochs = {"train": {"max_steps": None, "num_train_epochs": 1.1}}
    run(other, 1, config_of(1, **epochs, **EXACT))
    run(folder, 2, config_of(2, **epochs, **EXACT))
    assert result(folder) == result(other)


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 3)])
def test_a_checkpoint_resumes_on_another_number_of_processes(exact_two, inputs, tmp_path, before, after):
    folder = pathlib.Path(shutil.copytree(exact_two, tmp_path / "work"))
    if before == 1:
        shutil.rmtree(folder / "out")
        run(folder, 1, config_of(1, **EXACT))
    interrupted_after(folder, 4)
    process = run(folder, after, config_of(after, **EXACT))
    assert "resuming after step 4 of 6" in process.stderr
    assert result(folder) == result(exact_two)


def test_the_last_step_of_an_epoch_resumes_on_another_number_of_processes(inputs, tmp_path):
    source = {"name": "domain", "path": "domain.jsonl"}
    changes = {**EXACT, "data": dict(base_config()["data"], train=[source], eval=[])}
    train = {"max_steps": None, "num_train_epochs": 2, "save_steps": 1, "eval_steps": 0}
    folders = {}
    for processes in (1, 2):
        folder = folders[processes] = pathlib.Path(shutil.copytree(inputs, tmp_path / str(processes)))
        run(folder, processes, config_of(processes, train=train, **changes))
    steps = {line["current_steps"]: line["epoch"] for line in read_lines(folder / "out" / "trainer_log.jsonl")}
    last = min(step for step, epoch in steps.items() if epoch >= 1)  # of the first epoch
    interrupted_after(folders[2], last)
    run(folders[2], 1, config_of(1, train=train, **changes))
    assert result(folders[2]) == result(folders[1])


def test_another_global_batch_is_another_training(exact_two, tmp_path):
    folder = pathlib.Path(shutil.copytree(exact_two, tmp_path / "work"))
    interrupted_after(folder, 4)
    process = run(folder, 1, config_of(2, **EXACT), check=False)
    assert process.returncode == 2 and says(process.stderr, "batch_size x grad_accum x processes: ...12...6")


def test_only_the_first_process_reports(exact_two, folder):
    process = run(folder, 2, config_of(2, **EXACT))
    assert process.stdout.count("held-out text") == 1 and process.stderr.count("memory before training") == 1
    assert "2 processes train together" in process.stderr
    others = [line for line in process.stderr.splitlines() if line.startswith("[rank")]
    assert all(line.startswith("[rank 1] warning: ") for line in others)
    assert not list(folder.glob("out/activations*"))


def test_verified_steps_of_shared_layers_change_nothing(inputs, tmp_path):
    results = []
    for every in (0, 2):
        folder = pathlib.Path(shutil.copytree(inputs, tmp_path / str(every)))
        process = run(folder, 2, config_of(2, train={"verify_every": every, "eval_steps": 0}, unit_lr={"policy": "uniform"},
                                           dist=SHARED))
        assert ("3 steps were computed twice, with the same bits" in process.stderr) == (every > 0)
        results.append(result(folder))
    assert results[0] == results[1]


def test_verified_steps_change_nothing(exact_two, folder):
    process = run(folder, 2, config_of(2, train={"verify_every": 2}, **EXACT))
    assert "3 steps were computed twice, with the same bits" in process.stderr
    assert result(folder) == result(exact_two)

"""Several processes before they meet: one whose command or configuration is bad ends all of them; the first one speaks for
all; a command that does not divide its work refuses to be one of several."""

import os
import socket
import subprocess
import sys
import time

import pytest
from conftest import BUILD, says
from dist_runs import (  # noqa: F401
    checkpoints, command, config_of, endless, ends_of, free_port, inputs, plain_variables, ranks_in, start_ranks, wait_for,
    wait_for_checkpoint, write_config,
)

FAR_TIMEOUT = {"dist": {"timeout": 300}}  # no process may wait for it


BAD = {
    "missing.yaml": (None, "missing.yaml: "),
    "key.yaml": ({"train": {"learning_rat": 1}}, "key.yaml:...learning_rat"),
    "value.yaml": ({"train": {"max_steps": -1}}, "value.yaml:...train.max_steps"),
    "text.yaml": ("a: [", "text.yaml"),
    "folder.yaml": (os.mkdir, "folder.yaml"),
}


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_configuration_of_one_process_ends_all_at_once(folder, bad, name):
    content, problem = BAD[name]
    write_config(folder, config_of(3, **FAR_TIMEOUT))
    if isinstance(content, dict):
        run_yaml = (folder / "run.yaml").read_text()
        write_config(folder, config_of(3, **content))
        (folder / "run.yaml").rename(folder / name)
        (folder / "run.yaml").write_text(run_yaml)
    elif callable(content):
        content(folder / name)
    elif content:
        (folder / name).write_text(content)
    ranks = start_ranks(folder, [["run", name if rank == bad else "run.yaml"] for rank in range(3)])
    errors, codes = ends_of(ranks)
    assert codes == [2, 2, 2], errors
    assert says(errors[bad], f"error: {problem}")
    for rank, text in enumerate(errors):
        prefix = f"[rank {rank}] " if rank > 0 else ""
        assert text.startswith(prefix + "error: ") or "\n" + prefix + "error: " in text
        if rank != bad:
            assert says(text, f"error: rank {bad} ended: {problem}")
    assert not (folder / "out").exists() and not ranks_in(folder)


WORDS = {
    "run run.yaml --no-such-option": (2, "unknown option"), "runn run.yaml": (2, "unknown command"), "": (2, "it printed help only"),
    "train": (2, "adept train: "), "run run.yaml --nproc 2": (2, "--nproc: "), "run --help": (0, "it printed help only"),
    "dial --model base": (2, "adept dial: found process ...expected one process"),
}  # fmt: skip


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("words", WORDS)
def test_a_bad_command_line_of_one_process_ends_all_at_once(folder, bad, words):
    own_code, problem = WORDS[words]
    write_config(folder, config_of(2, **FAR_TIMEOUT))
    errors, codes = ends_of(start_ranks(folder, [words.split() if rank == bad else ["run", "run.yaml"] for rank in range(2)]))
    assert codes[bad] == own_code and codes[1 - bad] == 2, errors
    assert says(errors[1 - bad], f"error: rank {bad} ended: {problem}")
    assert not (folder / "out").exists() and not ranks_in(folder)


HOST = socket.gethostname()
VARIABLES = [
    (1, {"RANK": "x"}, f"a process on {HOST}", 'RANK is "x"; expected an integer'),
    (1, {"RANK": "3"}, f"a process on {HOST}", "RANK is 3; expected less than WORLD_SIZE, which is 3"),
    (1, {"RANK": ""}, f"a process on {HOST}", "RANK is not set"),
    (1, {"WORLD_SIZE": "1"}, f"a process on {HOST}", "RANK is 1; expected less than WORLD_SIZE, which is 1"),
    (1, {"WORLD_SIZE": "1", "RANK": ""}, f"a process on {HOST}", "RANK is not set"),
    (1, {"WORLD_SIZE": ""}, "rank 1", "WORLD_SIZE is not set"),
    (0, {"WORLD_SIZE": ""}, "rank 0", "WORLD_SIZE is not set"),
    (0, {"LOCAL_RANK": "7"}, "rank 0", "LOCAL_RANK is 7; expected less than LOCAL_WORLD_SIZE, which is 3"),
    (2, {"LOCAL_WORLD_SIZE": "-1"}, "rank 2", 'LOCAL_WORLD_SIZE is "-1"'),
    (0, {"MASTER_ADDR": ""}, "rank 0", "MASTER_ADDR is not set"),
]


@pytest.mark.parametrize("bad, variables, who, problem", VARIABLES)
def test_bad_variables_of_one_process_end_all_at_once(folder, bad, variables, who, problem):
    write_config(folder, config_of(3, **FAR_TIMEOUT))
    since = time.monotonic()
    errors, codes = ends_of(start_ranks(folder, [["run", "run.yaml"]] * 3, changes={bad: variables}))
    assert codes == [2, 2, 2], errors
    assert time.monotonic() - since < 30
    for rank, text in enumerate(errors):
        assert says(text, f"error: {'' if rank == bad else f'{who} ended: '}RANK and WORLD_SIZE set") and says(text, "  " + problem)
    assert not (folder / "out").exists() and not ranks_in(folder)


def test_bad_variables_end_a_process_soon_where_nobody_can_be_told(folder):
    write_config(folder, config_of(2))
    since = time.monotonic()
    process = subprocess.run(command(1), cwd=folder, env=plain_variables("x", free_port()), capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and time.monotonic() - since < 30
    assert says(process.stderr, f"the other processes were not told that a process on {HOST} ended: ...nothing listens there")


def test_a_model_that_is_missing_on_one_machine_ends_all_at_once(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for place in (folder, other):
        write_config(place, config_of(2, output_dir=str(tmp_path / "out"), **FAR_TIMEOUT))
    port = free_port()
    ranks = [subprocess.Popen(command(1), cwd=place, stderr=subprocess.PIPE, text=True, env=plain_variables(rank, port))
             for rank, place in enumerate((folder, other))]
    errors, codes = ends_of(ranks)
    assert codes == [2, 2] and says(errors[1], "[rank 1] error: ...base...hf download") and says(errors[0], "rank 1 ended: ...base")


def test_a_process_with_a_bad_configuration_harms_no_other_job(folder):
    """Of the same MASTER_PORT, by mistake."""
    write_config(folder, endless())
    port = free_port()
    job = start_ranks(folder, [["run", "run.yaml"]] * 2, port)
    wait_for_checkpoint(folder, job[0])
    stranger = subprocess.run([BUILD / "adept", "run", "none.yaml"], cwd=folder, env=plain_variables(1, port), capture_output=True,
                              text=True, timeout=60)
    assert stranger.returncode == 2
    newest = checkpoints(folder)[-1]
    wait_for(lambda: checkpoints(folder)[-1] != newest or job[0].poll() is not None)
    assert [process.poll() for process in job] == [None, None], "the job goes on"
    for process in job:
        process.terminate()
    assert ends_of(job)[1] == [143, 143]


def test_a_failure_that_nobody_can_be_told_is_reported(folder):
    with socket.socket() as listening:  # and is no store
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        process = subprocess.run([BUILD / "adept", "run", "none.yaml"], cwd=folder, env=plain_variables(0, port), capture_output=True,
                                 text=True, timeout=60)
    assert process.returncode == 2 and says(process.stderr, "error: none.yaml: ")
    assert says(process.stderr, "warning: the other processes were not told that rank 0 ended: none.yaml")
    assert says(process.stderr, f"port {port} (MASTER_PORT): another program uses it")


@pytest.mark.parametrize("launched", ["torchrun", "plain variables"])
@pytest.mark.parametrize("first, code", [("run run.yaml --set output_dir=first", 0), ("run none.yaml", 2)])
def test_a_script_of_each_process_starts_one_command_after_the_other(folder, launched, first, code):
    write_config(folder, config_of(2, train={"max_steps": 1, "eval_steps": 0}))
    script = f"{BUILD / 'adept'} {first}; [[ $? == {code} ]] && exec {BUILD / 'adept'} run run.yaml"
    words = ["bash", "-c", script]
    if launched == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
        ranks = [subprocess.Popen(torchrun + words, cwd=folder, stderr=subprocess.PIPE, text=True)]
    else:
        port = free_port()
        ranks = [subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True, env=plain_variables(rank, port)) for rank in range(2)]
    for process in ranks:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors
    assert (folder / "out" / "model").exists() and (folder / "first" / "model").exists() == (code == 0)


NOTE = "train.max_steps overrides it"


@pytest.mark.parametrize("launched", ["--nproc", "torchrun"])
def test_notes_on_the_configuration_are_printed_once(folder, launched):
    write_config(folder, config_of(2, train={"max_steps": 1, "num_train_epochs": 1, "eval_steps": 0}))
    words = command(2) if launched == "--nproc" else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", *command(1)]
    process = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0 and process.stderr.count(NOTE) == 1, process.stderr


TEXT = ["--model", "base", "--data", "domain.jsonl", "--out", "new"]
ONE = {
    "tokenize": TEXT, "plan": ["run.yaml", "--out", "new"], "data": ["inspect", "run.yaml"],
    "expand": ["--model", "base", "--after", "1", "--out", "new"], "generate": ["--model", "base", "--prompt", "a"],
    "dial": ["--model", "base", "--general", "domain.jsonl", "--domain", "domain.jsonl", "--out", "new"],
    "expand-vocab": ["--model", "base", "--tokens", "none", "--out", "new"], "import-gguf": ["--gguf", "none", "--out", "new"],
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_a_command_that_does_not_divide_its_work_is_for_one_process(folder, name):
    write_config(folder, config_of(2))
    errors, codes = ends_of(start_ranks(folder, [[name, *ONE[name]]] * 2))
    assert codes == [2, 2]
    for rank, text in enumerate(errors):
        assert says(text, f"error: adept {name}: found process {rank} of 2 ...expected one process...env -u RANK -u WORLD_SIZE adept {name}")
    assert not (folder / "new").exists()


def test_commands_that_only_print_work_in_a_job(folder):
    write_config(folder, config_of(2))
    for words in (["--version"], ["config", "run.yaml"], ["eval", "--help"], ["run", "--help"], ["completion", "bash"]):
        process = subprocess.run([BUILD / "adept", *words], cwd=folder, capture_output=True, text=True, env=plain_variables(1, 1))
        assert process.returncode == 0 and process.stdout, process.stderr


def test_a_job_of_one_process_runs_every_command(folder):
    variables = {**plain_variables(0, 1), "WORLD_SIZE": "1"}
    process = subprocess.run([BUILD / "adept", "eval", *TEXT], cwd=folder, capture_output=True, text=True, env=variables)
    assert process.returncode == 0 and (folder / "new").exists(), process.stderr

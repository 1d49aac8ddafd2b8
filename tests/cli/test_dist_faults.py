"""What happens when one of several processes fails, differs or does not come."""

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
from conftest import BUILD, preload, says
from dist_runs import (  # noqa: F401
    EXACT, FAR, FULL_DISK, assert_nothing_is_left, checkpoints, command, config_of, endless, exact_two, free_port, inputs,
    interrupted_after, plain_variables, ranks_in, result, run, start, wait_for, wait_for_checkpoint, write_config,
)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_and_is_named(folder, killed):
    process = start(folder, 2, endless())
    wait_for_checkpoint(folder, process)
    os.kill(ranks_in(folder)[killed], signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGKILL
    # From the program that started them, and from the other one, which need not be killed.
    assert len(re.findall(rf"^(?:\[rank 1\] )?error: rank {killed} was killed by signal 9 \(Killed\)$", errors, re.M)) == 2
    assert "rank %d was killed" % (1 - killed) not in errors
    assert_nothing_is_left(folder)


def stop_before_its_turn(folder, process):
    """Stops rank 0 where rank 1 waits for it without communicating: while it writes a checkpoint."""
    rank = ranks_in(folder)[0]
    while not list(folder.glob("out/*.tmp*")):
        assert process.poll() is None
    os.kill(rank, signal.SIGSTOP)
    return rank


def test_a_process_killed_while_others_wait_for_its_files_ends_them(folder):
    process = start(folder, 2, endless(train={"save_steps": 1}))
    wait_for_checkpoint(folder, process)
    rank = stop_before_its_turn(folder, process)
    time.sleep(1)  # the other one comes to where it waits
    os.kill(rank, signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    assert "[rank 1] error: rank 0 was killed by signal 9 (Killed)" in errors and "rank 1 was killed" not in errors


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_ends_the_others_within_the_time_out(folder, stopped):
    process = start(folder, 2, endless(dist={"timeout": 3}))
    wait_for_checkpoint(folder, process)
    os.kill(ranks_in(folder)[stopped], signal.SIGSTOP)
    since = time.monotonic()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and time.monotonic() - since < 15, "not as late as a process that can end by itself is killed"
    assert says(errors, f"error: rank {stopped} gave no sign of life for 3 s (dist.timeout)")
    assert f"error: rank {stopped} did not end after the failure of another one, so it was killed" in errors
    assert_nothing_is_left(folder)


def test_a_signal_saves_and_the_next_call_continues(folder, exact_two):
    process = start(folder, 2, config_of(2, train={"max_steps": FAR, "save_steps": 0}, **EXACT))
    log = folder / "out" / "trainer_log.jsonl"
    wait_for(lambda: log.exists() and log.read_text() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and says(errors, "error: terminated (SIGTERM); saved step ...; the same command continues")
    assert len(checkpoints(folder)) == 1
    assert_nothing_is_left(folder)


def test_a_full_disk_of_the_first_process_ends_all(folder):
    write_config(folder, config_of(2, method="full", unit_lr={"policy": "uniform"}))
    limited = ["bash", "-c", 'ulimit -f 800; exec "$@"', "bash", *command(2)]
    process = subprocess.run(limited, cwd=folder, capture_output=True, text=True, timeout=120)
    assert process.returncode == 1
    assert says(process.stderr, "error: ...optimizer.safetensors...File too large")
    assert says(process.stderr, "[rank 1] error: rank 0 ended: ...optimizer.safetensors")
    assert not checkpoints(folder) and not ranks_in(folder)


def test_damaged_checkpoints_are_reported_once_and_end_all(exact_two, tmp_path):
    folder = pathlib.Path(shutil.copytree(exact_two, tmp_path / "work"))
    interrupted_after(folder, FAR)
    for checkpoint in checkpoints(folder):
        (checkpoint / "optimizer.safetensors").write_bytes(b"x")
    process = run(folder, 2, config_of(2, **EXACT), check=False)
    assert process.returncode == 1
    warnings = [line for line in process.stderr.splitlines() if "skipped, because it is damaged" in line]
    assert len(warnings) == len(checkpoints(folder)) and all(line.startswith("warning: ") for line in warnings)
    errors = [line for line in process.stderr.splitlines() if "checkpoints is intact; the newest: " in line]
    assert len(errors) == 2 and "optimizer.safetensors" in errors[0]


@pytest.mark.parametrize("second, difference", [
    ("run run.yaml --set train.learning_rate=0.25", "configuration: train/learning_rate: rank 0: 0.001; rank 1: 0.25"),
    ("train run.yaml --resume", "command: rank 0: adept run; rank 1: adept train --resume"),
])  # fmt: skip
def test_different_configurations_or_commands_end_every_process_before_the_first_step(folder, second, difference):
    write_config(folder, config_of(2))
    port = free_port()
    ranks = [subprocess.Popen([BUILD / "adept", *words.split()], cwd=folder, env=plain_variables(rank, port),
                              stderr=subprocess.PIPE, text=True)
             for rank, words in enumerate(["run run.yaml", second])]
    for rank, process in enumerate(ranks):
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert says(errors, difference), rank
    assert not (folder / "out").exists()


def run_ranks(folders, caches):
    """The error messages of two processes, each with its working directory and its cache."""
    port = free_port()
    ranks = [subprocess.Popen(command(1), cwd=folder, stderr=subprocess.PIPE, text=True,
                              env=plain_variables(rank, port, XDG_CACHE_HOME=str(cache), ADEPT_RESULT_CACHE="on"))
             for rank, (folder, cache) in enumerate(zip(folders, caches))]
    errors = [process.communicate(timeout=60)[1] for process in ranks]
    return errors, [process.returncode for process in ranks]


def damage(cache):
    """Flips a bit of an id of the largest store, and returns its file."""
    shards = list((cache / "adept" / "tokens").glob("*/00000.tokens"))
    damaged = max(shards, key=lambda path: path.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[24] ^= 1  # of an id in the first block
    damaged.write_bytes(content)
    return damaged


@pytest.fixture()
def cache(folder, tmp_path):
    """With the tokens of a run."""
    cache = tmp_path / "cache-0"
    run(folder, 1, config_of(1, train={"max_steps": 1}), env={**os.environ, "XDG_CACHE_HOME": str(cache), "ADEPT_RESULT_CACHE": "on"})
    shutil.rmtree(folder / "out")
    write_config(folder, config_of(2))
    return cache


def test_a_process_with_a_damaged_cache_ends_all_before_the_first_step_and_heals(folder, cache, tmp_path):
    caches = [cache, tmp_path / "cache-1"]
    shutil.copytree(*caches)
    damaged = damage(caches[1])
    errors, codes = run_ranks([folder, folder], caches)
    assert codes == [1, 1]
    assert says(errors[1], f"[rank 1] error: {damaged}: ...damaged...repeat the command")
    assert says(errors[0], f"error: rank 1 ended: {damaged}")
    assert not checkpoints(folder) and not (folder / "out" / "trainer_log.jsonl").exists()
    errors, codes = run_ranks([folder, folder], caches)
    assert codes == [0, 0], errors
    assert (folder / "out" / "data" / "domain.tokens").resolve().is_relative_to(caches[0]), "rank 1 links nothing"


def test_the_first_process_searches_the_training_text_for_all(folder, tmp_path):
    """Machines with caches of their own."""
    repeated = (folder / "domain.jsonl").read_text().splitlines()[:4]  # of held-out text, twice in the training text
    with (folder / "notes" / "deep" / "b.jsonl").open("a") as file:
        file.writelines(line + "\n" for line in 2 * repeated)
    texts = {**config_of(2)["data"], "deduplicate": True, "drop_contaminated": True}
    one = pathlib.Path(shutil.copytree(folder, tmp_path / "one"))
    run(one, 1, config_of(1, data=texts, **EXACT))
    write_config(folder, config_of(2, data=texts, **EXACT))
    caches = [tmp_path / "cache-0", tmp_path / "cache-1"]
    errors, codes = run_ranks([folder, folder], caches)
    assert codes == [0, 0], errors
    assert result(folder) == result(one)
    assert (folder / "out" / "contamination.json").read_bytes() == (one / "out" / "contamination.json").read_bytes()
    assert json.loads((one / "out" / "contamination.json").read_text())["train"]["domain"]["excluded_documents"] >= 4
    assert list((caches[0] / "adept" / "results").glob("*.json")) and not (caches[1] / "adept" / "results").exists()


def test_damage_in_a_cache_that_processes_share_is_found_by_one_and_ends_all(folder, cache):
    damaged = damage(cache)
    errors, codes = run_ranks([folder, folder], [cache, cache])
    assert codes == [1, 1]
    finder = next(rank for rank in (0, 1) if says(errors[rank], f"error: {damaged}: ...damaged...repeat the command"))
    assert says(errors[1 - finder], f"error: rank {finder} ended: {damaged}")
    assert not checkpoints(folder) and not (folder / "out" / "trainer_log.jsonl").exists()


def test_verification_of_all_texts_heals_a_cache_that_processes_share(folder, cache):
    damage(cache)
    config = config_of(2)
    process = run(folder, 2, {**config, "data": {**config["data"], "verify": True}},
                  env={**os.environ, "XDG_CACHE_HOME": str(cache), "ADEPT_RESULT_CACHE": "on"})
    assert process.stderr.count("Tokenizing again") == 1


@pytest.mark.parametrize("file, text", [("notes/a.txt", "data.train (domain)"), ("held.txt", "data.eval (held-general)")])
def test_a_process_with_other_text_ends_all_before_the_first_step(folder, tmp_path, file, text):
    other = pathlib.Path(shutil.copytree(folder, tmp_path / "other"))
    (other / file).write_text((other / file).read_text().replace("e", "o"))
    for place in (folder, other):
        write_config(place, config_of(2, output_dir=str(tmp_path / "out")))
    caches = [tmp_path / "cache-0", tmp_path / "cache-1"]
    errors, codes = run_ranks([folder, other], caches)
    assert codes == [1, 1]
    for error in errors:
        assert says(error, f"tokens of {text}: rank ...: xxh3:... (in {caches[0]}/...; rank ...: xxh3:... (in {caches[1]}/") or \
            says(error, f"tokens of {text}: rank ...: xxh3:... (in {caches[1]}/...; rank ...: xxh3:... (in {caches[0]}/")
        assert error.count("tokens of") == 1, "only one text differs"
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_process_with_another_model_ends_all_and_the_message_has_only_what_differs(folder, tmp_path):
    other = pathlib.Path(shutil.copytree(folder, tmp_path / "other"))
    weights = next((other / "base").glob("model-00001-*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    for place in (folder, other):
        write_config(place, config_of(2, output_dir=str(tmp_path / "out")))
    errors, codes = run_ranks([folder, other], [tmp_path / "cache"] * 2)
    assert codes == [1, 1]
    for error in errors:
        assert says(error, 'measurement: model/weights: rank 0: "xxh3:..."; rank 1: "xxh3:..."') and error.count("rank 0: ") == 1, error


@pytest.mark.parametrize("deterministic", [False, True])
def test_processes_with_other_instructions_give_the_same_bits_or_nothing(folder, deterministic):
    write_config(folder, config_of(2, dist={"deterministic": deterministic}, train={"max_steps": 1, "eval_steps": 0}))
    port = free_port()
    ranks = [subprocess.Popen(command(1), cwd=folder, stderr=subprocess.PIPE, text=True,
                              env={**plain_variables(rank, port), "ADEPT_INSTRUCTION_SET": name})
             for rank, name in enumerate(("generic", "avx2"))]  # fmt: skip
    for process in ranks:
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == (1 if deterministic else 0), errors
        lines = [line for line in errors.splitlines() if "instruction set (dist.deterministic): " in line]
        assert len(lines) == deterministic and all("rank 0: generic" in line and "rank 1: avx2" in line for line in lines)


def test_variables_without_a_place_to_meet_are_reported(folder):
    write_config(folder, config_of(2))
    process = subprocess.run(command(1), cwd=folder, env=plain_variables(0, "x"), capture_output=True, text=True)
    assert process.returncode == 2 and 'MASTER_PORT is "x"; expected an integer from 1 to 65535' in process.stderr


def test_a_process_that_does_not_come_is_named(folder):
    write_config(folder, config_of(2, dist={"timeout": 2}))
    process = subprocess.run(command(1), cwd=folder, env=plain_variables(0, free_port()), capture_output=True, text=True)
    assert process.returncode == 1 and says(process.stderr, "error: of 2 processes, rank 1 did not come to 127.0.0.1:")


def test_a_process_of_another_job_is_refused_and_harms_nobody(folder):
    """Two jobs with one MASTER_PORT, or two processes with one RANK."""
    write_config(folder, config_of(2, train={"max_steps": FAR}))
    port = free_port()
    first = subprocess.Popen(command(1), cwd=folder, env=plain_variables(0, port), stderr=subprocess.PIPE, text=True)
    second = subprocess.Popen(command(1), cwd=folder, env=plain_variables(1, port), stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(folder, first)
    other = subprocess.run(command(1), cwd=folder, env=plain_variables(1, port), capture_output=True, text=True, timeout=60)
    assert other.returncode == 1
    assert says(other.stderr, f"another process is rank 1 of the job at 127.0.0.1:{port} (rank 0) already...MASTER_PORT...RANK")
    newest = checkpoints(folder)[-1]
    wait_for(lambda: checkpoints(folder)[-1] != newest or first.poll() is not None)
    assert first.poll() is None and second.poll() is None, "the job goes on"
    for process in (first, second):
        process.terminate()
    for process in (first, second):
        process.communicate(timeout=60)


def test_nproc_inside_a_job_is_refused(folder):
    write_config(folder, config_of(2))
    port = free_port()
    ranks = [subprocess.Popen(command(2), cwd=folder, env=plain_variables(rank, port), stderr=subprocess.PIPE, text=True)
             for rank in range(2)]
    for process in ranks:
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 2 and says(errors, "--nproc: found 2, but this process is already one of 2")


def test_torchrun_restarts_and_the_run_continues_by_itself(folder, exact_two):
    write_config(folder, config_of(2, train={"max_steps": 6}, **EXACT))
    (folder / "rank").write_text(  # is killed once, after the checkpoint of step 2
        f"""#!/bin/bash
if [[ $RANK == 1 && $TORCHELASTIC_RESTART_COUNT == 0 ]]; then
  (while [[ ! -e out/checkpoint-2 ]]; do sleep 0.01; done; kill -KILL $$) &
fi
exec {BUILD / "adept"} run run.yaml
""")
    (folder / "rank").chmod(0o755)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
                "--monitor-interval", "0.1", "--no-python", "./rank"]
    process = subprocess.run(torchrun, cwd=folder, capture_output=True, text=True, timeout=180)
    assert process.returncode == 0, process.stderr
    assert says(process.stderr, "resuming after step ... of 6")
    assert result(folder) == result(exact_two)


def test_a_disk_that_fills_up_ends_all_and_the_run_continues_from_the_last_checkpoint(folder, exact_two):
    config = config_of(2, **EXACT)
    write_config(folder, config)
    process = subprocess.Popen(command(2), cwd=folder, env=preload(folder, FULL_DISK), stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(folder, process)
    (folder / "full").touch()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert says(errors, "error: ...checkpoint-...No space left on device...Free space")
    assert says(errors, "[rank 1] error: rank 0 ended: ...No space left on device")
    assert checkpoints(folder) and checkpoints(folder)[-1].name != "checkpoint-6"
    assert_nothing_is_left(folder)
    (folder / "full").unlink()
    assert "resuming after step" in run(folder, 2, config).stderr
    assert result(folder) == result(exact_two)


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_of_one_process_while_the_first_one_tokenizes_ends_all(folder, signalled):
    config = config_of(2, dist={"timeout": 20})
    config["data"]["eval"][1].update(path="/dev/stdin", format="jsonl")  # text that does not come
    write_config(folder, config)
    port = free_port()
    ranks = [subprocess.Popen(command(1), cwd=folder, env=plain_variables(rank, port), stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) for rank in range(2)]
    wait_for(lambda: (folder / "out" / "data" / "held-general.tokens").exists())  # the source before that
    time.sleep(1)
    assert [process.poll() for process in ranks] == [None, None]
    since = time.monotonic()
    ranks[signalled].terminate()
    for process in ranks:
        process.wait(timeout=60)
    errors = [process.communicate()[1] for process in ranks]
    assert [process.returncode for process in ranks] == [143, 143], errors
    assert time.monotonic() - since < 10
    assert says(errors[0], "error: terminated (SIGTERM); finished sources...are kept in")

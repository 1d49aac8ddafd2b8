"""Runs of several processes, for the tests of them."""

import json
import os
import pathlib
import pty
import re
import shutil
import socket
import subprocess
import time

import pytest
from conftest import BUILD
from whole_runs import base_config, make_inputs, read_lines

RELATIVE = 1e-6  # of fp32 sums in another order
MICRO_BATCHES = 6  # of a step, by any number of processes
FAR = 100_000  # steps that no test waits for


def config_of(processes, **changes):
    """The same training for any number of processes."""
    train = {**base_config()["train"], "batch_size": 2, "grad_accum": MICRO_BATCHES // processes, "activation_cache": 0,
             "save_total_limit": 10, **changes.pop("train", {})}
    train = {key: value for key, value in train.items() if value is not None}
    return base_config(train=train, **{"eval": dict(max_tokens=300, copies_tokens=0), **changes})


def command(processes):
    """Not by the fork server of other tests, which is not the program."""
    return [str(BUILD / "adept"), "run", "run.yaml", *(["--nproc", str(processes)] if processes > 1 else [])]


def write_config(folder, config):
    (folder / "run.yaml").write_text(json.dumps(config))


def run(folder, processes, config=None, check=True, **options):
    write_config(folder, config or config_of(processes))
    process = subprocess.run(command(processes), cwd=folder, capture_output=True, text=True, timeout=120, **options)
    assert not check or process.returncode == 0, process.stderr
    return process


def start(folder, processes, config):
    write_config(folder, config)
    return subprocess.Popen(command(processes), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ranks_in(folder):
    """Process ids of the ranks that work in `folder`, by rank."""
    found = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if pathlib.Path(os.readlink(process / "cwd")) != folder.resolve() or "adept" not in os.readlink(process / "exe"):
                continue
            variables = dict(entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry)
        except OSError:
            continue
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(process.name)
    return found


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def checkpoints(folder):
    return sorted(folder.glob("out/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def wait_for_checkpoint(folder, process, step=2):
    def is_there():
        assert process.poll() is None, process.communicate()[1]
        return (folder / "out" / f"checkpoint-{step}").exists()

    wait_for(is_there)


def result(folder):
    """The files that must have the same bits."""
    files = [folder / "out" / "model" / "model.safetensors"]
    for checkpoint in checkpoints(folder)[-1:]:
        files += [checkpoint / "trainable.safetensors", checkpoint / "optimizer.safetensors"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def losses(folder):
    return [line["loss"] for line in read_lines(folder / "out" / "trainer_log.jsonl") if "loss" in line]


def interrupted_after(folder, step):
    """Makes a finished run one that was killed after the checkpoint of `step`."""
    for checkpoint in checkpoints(folder):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    shutil.rmtree(folder / "out" / "model")
    (folder / "out" / "stages" / "train.json").unlink()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    make_inputs(folder)
    return folder


EXACT = {"dist": {"deterministic": True}}


def endless(train=None, **changes):
    return config_of(2, train={"max_steps": FAR, "save_steps": 2, "eval_steps": 0, **(train or {})}, **changes)


def assert_nothing_is_left(folder):
    assert not ranks_in(folder)
    state = checkpoints(folder)[-1] / "trainer_state.json"
    assert json.loads(state.read_text())["step"] > 0
    assert not list(folder.glob("out/*.tmp*"))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def plain_variables(rank, port, **changes):
    variables = dict(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                     MASTER_PORT=str(port))
    return {**os.environ, **variables, **changes}


def start_ranks(folder, arguments, port=None, changes={}):
    """A process for each rank, with arguments of its own, and `changes` of its variables."""
    port, size = port or free_port(), str(len(arguments))
    return [subprocess.Popen([BUILD / "adept", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**plain_variables(rank, port, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size), **changes.get(rank, {})})
            for rank, words in enumerate(arguments)]


def ends_of(ranks):
    errors = [process.communicate(timeout=60)[1] for process in ranks]
    return errors, [process.returncode for process in ranks]


FULL_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
// The disk of rank 0 is full while there is a file `full` in the working directory.
ssize_t write(int fd, const void* data, size_t size) {
  static ssize_t (*real)(int, const void*, size_t);
  if (!real) real = dlsym(RTLD_NEXT, "write");
  const char* rank = getenv("RANK");
  if (fd > 2 && size > 4096 && rank && strcmp(rank, "0") == 0 && access("full", F_OK) == 0) return errno = ENOSPC, -1;
  return real(fd, data, size);
}
"""


@pytest.fixture(scope="module")
def exact_two(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "work"
    shutil.copytree(inputs, folder)
    run(folder, 2, config_of(2, **EXACT))
    return folder


def seen_in_stage(folder, command, stage, source, act):
    """Runs a command on a terminal, which shows progress, and calls `act` with its process once a stage measures a source
    (a pattern). The exit code and the messages."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    text, acted = b"", False
    while True:
        try:
            text += os.read(terminal, 4096)
        except OSError:  # every process has ended
            break
        if not acted and process.poll() is None and re.search(rf"\r{stage} +{source} +[1-9]".encode(), text):
            act(process)
            acted = True
    os.close(terminal)
    return process.wait(timeout=60), re.sub(r"\x1b\[[0-9;]*[mK]", "", text.decode().replace("\r\n", "\n"))

"""Work does not depend on who reads what is printed, on open descriptors, on a terminal, or on how many threads start."""

import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
import text_models
from conftest import BUILD, preload, run_program, says

SECONDS = 120


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = text_models.make_inputs(tmp_path_factory.mktemp("surroundings"))
    text_models.write_jsonl(folder / "domain.jsonl", text_models.sentences("domain", 30))
    config = dict(
        model="base", output_dir="out", threads=2, seq_len=48,
        data={"train": [{"name": "domain", "path": "domain.jsonl"}], "general": [{"name": "probe", "path": "text.jsonl"}],
              "eval": [{"name": "held", "path": "text.jsonl", "role": "general"}]},
        probe={"max_tokens": 1000}, expand={"num_layers": 1}, unit_lr={"update_every": 2, "probe_tokens": 500},
        train={"max_steps": 6, "logging_steps": 1, "save_steps": 3, "learning_rate": 1e-3}, eval={"max_tokens": 600},
    )  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(config))
    (folder / "base" / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    run_program("adept", "run", "run.yaml", "--set", "output_dir=expected", cwd=folder)
    return folder


def weights(folder, out="out"):
    return (folder / out / "model" / "model.safetensors").read_bytes()


def dead_pipe():
    """The end for writing of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


RUN = ["run", "run.yaml"]


def start(folder, *arguments, **options):
    return subprocess.Popen([BUILD / "adept", *map(str, arguments)], cwd=folder, **options)


@pytest.mark.parametrize("which", ["stdout", "stderr", "both"])
def test_a_run_goes_on_without_a_reader(folder, which):
    pipe = dead_pipe()
    streams = {name: pipe if which in (name, "both") else subprocess.DEVNULL for name in ("stdout", "stderr")}
    process = start(folder, *RUN, **streams)
    os.close(pipe)
    # The results table is lost, which is not success; everything else is there.
    assert process.wait(SECONDS) == (0 if which == "stderr" else 128 + signal.SIGPIPE)
    assert weights(folder) == weights(folder, "expected")
    assert (folder / "out" / "all_results.json").is_file()


def test_a_full_disk_under_the_messages_does_not_end_a_run(folder):
    with open("/dev/full", "w") as full:
        assert start(folder, *RUN, stdout=subprocess.DEVNULL, stderr=full).wait(SECONDS) == 0
        assert weights(folder) == weights(folder, "expected")
        process = start(folder, *RUN, stdout=full, stderr=subprocess.PIPE, text=True)
        message = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 1 and message.endswith("files that were written are complete.\n")
    assert says(message, "error: standard output: ...No space left on device")


COMMANDS = {
    "tokenize": ["tokenize", "--model", "base", "--data", "text.jsonl"],
    "eval": ["eval", "--model", "base", "--data", "text.jsonl", "--out", "result"],
    "probe": ["probe", "--model", "base", "--data", "text.jsonl", "--out", "result"],
    "expand": ["expand", "--model", "base", "--after", 1, "--out", "result"],
    "dial": ["dial", "--model", "expected/model", "--general", "text.jsonl", "--domain", "domain.jsonl", "--out", "result"],
    "generate": ["generate", "--model", "base", "--prompt", "a", "--max-new-tokens", 3],
    "config": ["config", "run.yaml"],
    "explain": ["config", "--explain"],
    "help": ["--help"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_does_its_work_without_readers_and_tells_by_its_exit_code(folder, command):
    pipe = dead_pipe()
    process = start(folder, *COMMANDS[command], stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert process.wait(SECONDS) == 128 + signal.SIGPIPE
    assert (folder / "result").exists() == ("result" in COMMANDS[command])


def test_a_reader_that_leaves_early_ends_endless_printing_quietly(folder):
    lines = "".join(json.dumps({"text": "some words"}) + "\n" for _ in range(20000))
    (folder / "long.jsonl").write_text(lines)
    script = f"set -o pipefail; {BUILD}/adept tokenize --model base --data long.jsonl 2>err | head -1; echo ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
    assert process.stdout.splitlines()[1] == "141"
    assert "error" not in (folder / "err").read_text()


def test_a_signal_ends_the_wait_for_a_reader_that_stands_still(folder):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process = start(folder, "config", "--explain", stdout=writing, stderr=subprocess.PIPE, text=True)
    while not select.select([reading], [], [], SECONDS)[0] or select.select([], [writing], [], 0)[1]:
        assert process.poll() is None, "it fills the pipe and waits"
    process.send_signal(signal.SIGTERM)
    messages = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 128 + signal.SIGTERM and "terminated (SIGTERM)" in messages
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors_are_no_files_of_ours(folder, closed):
    script = f'exec {closed}; exec "$0" "$@"'
    process = subprocess.run(["bash", "-c", script, BUILD / "adept", *RUN], cwd=folder, capture_output=True, timeout=SECONDS)
    assert process.returncode == 0
    assert weights(folder) == weights(folder, "expected")
    for file in (folder / "out").rglob("*.json"):
        json.loads(file.read_text())
    config = (folder / "out" / "config.yaml").read_text()
    assert config == (folder / "expected" / "config.yaml").read_text().replace("expected", "out")


def wait_for_a_step(process, log):
    """The console shows a line a minute; the log has every step. An earlier run's log is replaced at the start."""
    started = time.time()
    while not (log.exists() and log.stat().st_mtime > started and '"loss"' in log.read_text()):
        assert process.poll() is None and time.time() < started + SECONDS
        time.sleep(0.05)


def test_a_closed_terminal_saves_as_a_termination_does(folder):
    process = start(folder, *RUN, "--set", "train.max_steps=100000", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    text=True)  # fmt: skip
    wait_for_a_step(process, folder / "out" / "trainer_log.jsonl")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)  # the kernel's and the shell's
    messages = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 128 + signal.SIGHUP, messages
    assert "SIGHUP" in messages and list((folder / "out").glob("checkpoint-*"))


def test_a_limit_of_cpu_time_saves_as_a_termination_does(folder):
    limited = ["bash", "-c", 'ulimit -S -t 3; exec "$0" "$@"', BUILD / "adept", *RUN, "--set", "train.max_steps=100000"]
    process = subprocess.run(limited, cwd=folder, capture_output=True, text=True, timeout=4 * SECONDS)
    assert process.returncode == 128 + signal.SIGXCPU, process.stderr
    assert "CPU time limit was reached (SIGXCPU, ulimit -t)" in process.stderr
    assert "train " not in process.stderr or list((folder / "out").glob("checkpoint-*"))


def test_nohup_is_respected(folder):
    ignoring = ["bash", "-c", 'trap "" HUP; exec "$0" "$@"', BUILD / "adept", *RUN]
    process = subprocess.Popen(ignoring, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=SECONDS) is not None and process.returncode == 0
    assert weights(folder) == weights(folder, "expected")


FEW_THREADS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
static int count;
int pthread_create(pthread_t* t, const pthread_attr_t* a, void* (*f)(void*), void* x) {
  static int (*real)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (!real) real = dlsym(RTLD_NEXT, "pthread_create");
  return __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST) < atoi(getenv("THREADS_LEFT")) ? real(t, a, f, x) : EAGAIN;
}
"""


@pytest.mark.parametrize("count", [0, 1, 3, 6])
@pytest.mark.parametrize("command", ["eval", "probe", "generate", "run"])
def test_threads_that_cannot_start_are_done_without_or_end_in_an_error(folder, command, count):
    environment = preload(folder, FEW_THREADS, THREADS_LEFT=str(count))
    arguments = RUN if command == "run" else [*COMMANDS[command], "--threads", 4]
    process = start(folder, *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, messages = process.communicate(timeout=SECONDS)
    assert process.returncode in (0, 1), messages
    if count == 0:
        assert process.returncode == 0 and "threads can be started" in messages, "the caller alone does it all"
    if process.returncode == 1:
        assert "hread" in messages, messages
    assert not [path for path in folder.rglob(".*.tmp-*")]


@pytest.fixture(scope="module")
def other_user(inputs):
    """Runs a command as a user without other processes, who may have so many processes and threads, in a copy of `inputs`."""
    if os.geteuid() != 0:
        pytest.skip("only root can run the program as another user")
    user = 60000 + os.getpid() % 5000
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copytree(inputs, f"{place}/work")
        subprocess.run(["chown", "-R", str(user), place], check=True)
        environment = {**os.environ, "HOME": place, "XDG_CACHE_HOME": f"{place}/cache"}

        def run(limit, *arguments):
            limits = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))  # noqa: E731
            return subprocess.run([BUILD / "adept", *map(str, arguments)], cwd=copy, user=user, group=user, extra_groups=[],
                                  preexec_fn=limits, env=environment, capture_output=True, text=True, timeout=SECONDS)  # fmt: skip

        try:
            run(10, "--version").check_returncode()
        except (PermissionError, subprocess.CalledProcessError):
            pytest.skip("another user may not run the program where it is")
        yield run


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 9, 10, 14])
@pytest.mark.parametrize("command", ["eval", "generate", "run"])
def test_a_limit_of_processes_leaves_fewer_threads(other_user, command, limit):
    arguments = ["run", "run.yaml", "--set", f"output_dir=out-{limit}"] if command == "run" else COMMANDS[command]
    process = other_user(limit, *arguments, "--threads", 4)
    assert process.returncode == 0, process.stderr
    threads = 1 + max(0, limit - 2) // 4  # torch's two pools, as many in reserve, and a thread for autograd
    assert (f"{threads} of 4 threads can be started" in process.stderr) == (threads < 4), process.stderr


def test_a_limit_of_processes_that_leaves_none_for_a_child_is_named(other_user):
    process = other_user(1, "generate", "--model", "base", "--chat", "--prompt", "a", "--threads", 1)
    assert process.returncode == 1, process.stderr
    assert re.search(r"error: cannot create a thread or process: .*limit.*ulimit -u.*--threads", process.stderr)


NOT_REMOVABLE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
int remove(const char* path) {
  static int (*real)(const char*);
  if (!real) real = dlsym(RTLD_NEXT, "remove");
  const char* name = strrchr(path, '/');
  if (!name || strcmp(name, "/activations.cache") != 0) return real(path);
  errno = EIO;
  return -1;
}
"""


def test_a_cache_that_cannot_be_removed_is_named(folder):
    """The run is none the worse for it."""
    keeping = [*RUN, "--set", "expand.after=2", "--set", "train.max_steps=12"]  # two layers below the copy, two epochs
    process = start(folder, *keeping, env=preload(folder, NOT_REMOVABLE), stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, text=True)  # fmt: skip
    messages = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 0 and (folder / "out" / "model" / "config.json").is_file()
    assert says(messages, "out/activations.cache: ...removed: Input/output error")

"""What the program does with files that are no plain files, and with what killed calls left."""

import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest
import text_models
from conftest import BUILD, preload, run_program, says

SECONDS = 60  # after which a call is taken to wait for ever

MODEL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
               "model.safetensors", "model.safetensors.index.json"]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return text_models.make_inputs(tmp_path_factory.mktemp("files"))


EVAL = ["eval", "--model", "base", "--data", "text.jsonl", "--threads", 1]
PROBE = ["probe", "--model", "base", "--data", "text.jsonl", "--threads", 1]
TOKENIZE = ["tokenize", "--model", "base", "--data", "text.jsonl", "--out-format", "jsonl"]
EXPAND = ["expand", "--model", "base", "--after", 1]
WRITERS = {"eval": EVAL, "probe": PROBE, "tokenize": TOKENIZE}


def call(folder, *arguments, **options):
    return run_program("adept", *arguments, cwd=folder, timeout=SECONDS, **options)


@pytest.mark.parametrize("command", WRITERS)
def test_an_output_may_be_a_pipe_a_device_a_link_or_standard_output(folder, command):
    arguments = WRITERS[command]
    call(folder, *arguments, "--out", "expected")
    expected = (folder / "expected").read_bytes()

    os.mkfifo(folder / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((folder / "pipe").read_bytes()))
    reader.start()
    call(folder, *arguments, "--out", "pipe")
    reader.join(SECONDS)
    assert found == [expected] and stat.S_ISFIFO((folder / "pipe").stat().st_mode)

    call(folder, *arguments, "--out", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)

    (folder / "old").write_text("old")
    (folder / "old").chmod(0o640)
    (folder / "link").symlink_to("old")
    call(folder, *arguments, "--out", "link")
    assert (folder / "link").is_symlink() and (folder / "old").read_bytes() == expected
    assert stat.S_IMODE((folder / "old").stat().st_mode) == 0o640

    assert expected in call(folder, *arguments, "--out", "/dev/stdout").stdout.encode()
    with open(folder / "redirected", "wb") as file:
        subprocess.run([BUILD / "adept", *map(str, arguments), "--out", "/dev/stdout"], cwd=folder, stdout=file, check=True)
    assert expected in (folder / "redirected").read_bytes()
    call_line = " ".join(map(str, [BUILD / "adept", *arguments])) + " --out >(cat > substituted) && wait $!"
    subprocess.run(["bash", "-c", call_line], cwd=folder, check=True, capture_output=True)
    assert (folder / "substituted").read_bytes() == expected
    assert not list(folder.glob(".*tmp*"))


def test_a_model_is_written_where_a_link_leads(folder):
    call(folder, *EXPAND, "--out", "disk")
    (folder / "link").symlink_to("disk")
    refused = call(folder, *EXPAND, "--out", "link", check=False)
    assert refused.returncode == 1 and "link: already exists" in refused.stderr
    (folder / "disk" / "old").write_text("old")
    call(folder, *EXPAND, "--out", "link", "--force")
    assert (folder / "link").is_symlink() and not (folder / "disk" / "old").exists()
    (folder / "new").symlink_to("not-yet")
    call(folder, *EXPAND, "--out", "new")
    assert (folder / "new").is_symlink() and (folder / "not-yet" / "config.json").is_file()


def test_links_that_go_in_a_circle_are_named(folder):
    (folder / "loop").symlink_to("loop")
    (folder / "run.yaml").write_text(json.dumps(
        {"model": "base", "output_dir": "loop", "data": {"train": [{"name": "t", "path": "text.jsonl"}]},
         "expand": {"after": [1]}, "unit_lr": {"policy": "uniform"}, "train": {"max_steps": 1}}))  # fmt: skip
    for arguments in ([*EXPAND, "--out", "loop"], [*EVAL, "--out", "loop"], ["run", "run.yaml"], ["train", "run.yaml"],
                      ["eval", "--model", "loop", "--data", "text.jsonl"]):  # fmt: skip
        failed = call(folder, *arguments, check=False)
        assert failed.returncode in (1, 2), failed.stderr
        assert "loop" in failed.stderr and "filesystem error" not in failed.stderr, failed.stderr


def test_an_output_that_holds_what_is_read_is_refused(folder):
    call(folder, *EXPAND, "--out", "old")
    call(folder, *PROBE, "--out", "old/scores.json")
    shutil.copy(folder / "text.jsonl", folder / "old")
    texts = ["--general", "g=old/text.jsonl", "--domain", "d=text.jsonl"], ["--general", "text.jsonl", "--domain", "old/*.jsonl"]
    expand = ["expand", "--model", "base", "--layers", 1, "--importance", "old/scores.json"]
    call(folder, *EXPAND, "--out", "copies")
    for arguments in (expand, *(["dial", "--model", "copies", *paths] for paths in texts)):
        refused = call(folder, *arguments, "--out", "old", "--force", check=False)
        assert refused.returncode == 2, refused.stderr
        assert "--out old: contains the input old/" in refused.stderr and "which would be lost; expected a separate directory" in refused.stderr
    assert (folder / "old" / "scores.json").is_file() and (folder / "old" / "text.jsonl").is_file()


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_pipe_in_the_place_of_a_file_of_the_model_is_refused(folder, name):
    file = folder / "base" / name
    file.unlink(missing_ok=True)
    if name.endswith("index.json"):
        (folder / "base" / "model.safetensors").unlink()
    os.mkfifo(file)
    commands = [EVAL, [*PROBE, "--out", "scores.json"], [*EXPAND, "--out", "new"], TOKENIZE,
                ["generate", "--model", "base", "--prompt", "a", "--max-new-tokens", 1]]  # fmt: skip
    refusals = [process.stderr for process in (call(folder, *arguments, check=False) for arguments in commands)
                if process.returncode == 1]  # fmt: skip
    assert refusals, "a command reads the file"
    for message in refusals:
        assert f"{name}: is a named pipe; expected a regular file" in message


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"])
def test_a_link_to_nothing_is_no_absent_file(folder, name):
    (folder / "base" / name).unlink(missing_ok=True)
    (folder / "base" / name).symlink_to("../../blobs/0a1b")
    failed = call(folder, *TOKENIZE if name != "generation_config.json" else EVAL, check=False)
    if failed.returncode == 0:
        failed = call(folder, "generate", "--model", "base", "--prompt", "a", check=False)
    if failed.returncode == 0:
        failed = call(folder, *EXPAND, "--out", "new", check=False)
    assert failed.returncode == 1 and f"{name}: is a symbolic link to ../../blobs/0a1b, which" in failed.stderr


def test_text_may_come_from_standard_input(folder):
    expected = call(folder, *EVAL, "--out", "a.json")
    text = (folder / "text.jsonl").read_text()
    from_stdin = ["eval", "--model", "base", "--data", "text=/dev/stdin", "--threads", 1]
    assert call(folder, *from_stdin, input=text).stdout == expected.stdout
    with open(folder / "text.jsonl") as file:
        assert call(folder, *from_stdin, stdin=file).stdout == expected.stdout
    both = ["eval", "--model", "base", "--data", "a=/dev/stdin", "--data", "b=/dev/fd/0", "--out", "two.json"]
    call(folder, *both, input=text)
    two = json.loads((folder / "two.json").read_text())["datasets"]
    assert two["a"]["loss"] == two["b"]["loss"], "one stream under two names"
    plain = call(folder, "tokenize", "--model", "base", "--data", "/dev/stdin", "--txt-record", "line", input="a b\nc\n")
    assert len(plain.stdout.splitlines()) == 2
    ours, theirs = socket.socketpair()
    ours.sendall(text.encode())
    ours.close()
    with theirs:
        assert call(folder, *from_stdin, stdin=theirs).stdout == expected.stdout


KILLED_BEFORE_A_RENAME = """
#include <signal.h>
int rename(const char* from, const char* to) { (void)from; (void)to; return raise(SIGKILL); }
"""


def kill_while_writing(folder, arguments, pattern):
    """Of a call that is killed before it gives the result its name."""
    environment = preload(folder, KILLED_BEFORE_A_RENAME)
    process = subprocess.run([BUILD / "adept", *map(str, arguments)], cwd=folder, env=environment, capture_output=True)
    assert process.returncode == -signal.SIGKILL
    assert list(folder.glob(pattern))


@pytest.mark.parametrize("command", ["eval", "probe", "tokenize", "expand", "dial"])
def test_the_next_call_removes_what_a_killed_one_left(folder, command):
    if command == "dial":
        call(folder, *EXPAND, "--out", "expanded")
    arguments = {**WRITERS, "expand": EXPAND, "dial": ["dial", "--model", "expanded", "--alpha", 0.5]}[command]
    kill_while_writing(folder, [*arguments, "--out", "result"], ".result.tmp-*")
    (left,) = folder.glob(".result.tmp-*")
    call(folder, *arguments, "--out", "other")
    assert left.exists(), "another output"
    call(folder, *arguments, "--out", "result")
    assert not list(folder.glob(".*.tmp-*")) and (folder / "result").exists()


def test_what_another_call_is_writing_stays(folder):
    os.mkfifo(folder / "pipe")
    # Waits with an open temporary until the pipe has a reader: its text comes from there.
    with open(folder / "text.jsonl") as text:
        lines = text.read()
    waiting = subprocess.Popen([BUILD / "adept", "tokenize", "--model", "base", "--data", "t=/dev/stdin", "--out-format", "jsonl", "--out", "ids"],
                               cwd=folder, stdin=subprocess.PIPE, text=True)  # fmt: skip
    while not list(folder.glob(".ids.tmp-*")):
        time.sleep(0.01)
        assert waiting.poll() is None
    call(folder, *TOKENIZE, "--out", "ids")
    assert list(folder.glob(".ids.tmp-*"))
    waiting.communicate(lines, timeout=SECONDS)
    assert waiting.returncode == 0 and not list(folder.glob(".ids.tmp-*"))


def test_a_limit_of_file_sizes_is_an_error_that_names_the_file(folder):
    for arguments, name in ((EXPAND, "out/model.safetensors"), (TOKENIZE, "out")):
        limited = ["bash", "-c", 'ulimit -f 8; exec "$0" "$@"', BUILD / "adept", *map(str, arguments), "--out", "out"]
        many = "".join(json.dumps({"text": "word " * 50}) + "\n" for _ in range(200))
        (folder / "text.jsonl").write_text(many)
        process = subprocess.run(limited, cwd=folder, capture_output=True, text=True)
        assert process.returncode == 1, process.stderr
        error = process.stderr.rpartition("error: ")[2]
        assert "cannot write: File too large" in error and "file size limit" in error
        assert pathlib.Path(name).name in error
        assert not list(folder.glob(".out.tmp-*")) and not (folder / "out").exists()


def wait_for_handlers(process):
    """Until the program takes signals itself."""
    status = pathlib.Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & 1 << (signal.SIGTERM - 1):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("waits", ["configuration", "text", "output"])
def test_a_signal_ends_a_wait(folder, waits, number):
    os.mkfifo(folder / "pipe")
    arguments = {"configuration": ["config", "pipe"], "output": [*TOKENIZE, "--out", "pipe"],
                 "text": ["tokenize", "--model", "base", "--data", "/dev/stdin"]}[waits]  # fmt: skip
    process = subprocess.Popen([BUILD / "adept", *map(str, arguments)], cwd=folder, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    wait_for_handlers(process)
    process.send_signal(number)
    assert process.wait(SECONDS) == 128 + number
    assert number.name in process.stderr.read()
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_of_the_model_is_no_output(folder, command, name):
    before = (folder / "base" / name).read_bytes()
    process = call(folder, *WRITERS[command], "--out", f"./base/{name}", check=False)
    assert process.returncode == 2
    assert says(process.stderr, f"--out ./base/{name}: ...overwrite ...model base")
    assert (folder / "base" / name).read_bytes() == before and not list((folder / "base").glob(".*"))


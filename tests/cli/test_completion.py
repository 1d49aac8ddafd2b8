"""Shell completion: what the shells themselves offer with the scripts that the program prints."""

import os
import pty
import re
import shutil
import subprocess
import time

import pytest
from conftest import BUILD, run_program

COMMANDS = {"run", "train", "eval", "generate", "config", "completion"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place with files, and the script of every shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        process = run_program("adept", "completion", shell)
        assert process.stderr == ""
        (folder / f"script.{shell}").write_text(process.stdout)
    (folder / "some data.jsonl").write_text("")
    (folder / "some model").mkdir()
    return folder


def bash(folder, *words):
    """What bash offers for the last of the words, which are split at "=" as readline splits them."""
    script = (
        'source script.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _adept; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    process = subprocess.run(["bash", "-c", script, "bash", "adept", *words], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0 and process.stderr == "", process
    return set(process.stdout.split("\n")) - {""}


def fish(folder, line):
    """What fish offers at the end of the line."""
    script = f'source script.fish; complete -C "adept {line}"'
    process = subprocess.run(["fish", "-c", script], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0 and process.stderr == "", process
    return {line.split("\t")[0] for line in process.stdout.splitlines()}


needs_fish = pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")


def test_every_command_and_option_is_completed_by_bash(folder):
    assert COMMANDS | {"--help", "--version"} <= bash(folder, "")
    assert bash(folder, "gen") == {"generate"}
    for command in bash(folder, "") - {"--help", "--version"}:
        help_text = run_program("adept", command, "--help").stdout
        options = set(re.findall(r"^ +(?:-\w,)?(--[\w-]+)", help_text, re.MULTILINE))
        assert options and options == bash(folder, command, "--"), command


def test_bash_completes_what_an_option_takes(folder):
    dtypes = bash(folder, "eval", "--dtype", "")
    assert {"fp32", "bf16"} <= dtypes
    assert bash(folder, "eval", "--dtype", "b") == {"bf16"}
    assert bash(folder, "eval", "--dtype", "=") == dtypes
    assert bash(folder, "eval", "--dtype", "=", "b") == {"bf16"}
    assert bash(folder, "eval", "--model", "some") == {"some model"}
    assert bash(folder, "eval", "--data", "some") == {"some model", "some data.jsonl"}
    assert bash(folder, "eval", "--data", "name", "=", "some d") == {"some data.jsonl"}
    assert bash(folder, "run", "some d") == {"some data.jsonl"}
    assert bash(folder, "run", "some data.jsonl", "--res") <= {"--resume"}
    assert {"mask_out", "gain", "all"} <= bash(folder, "probe", "--method", "")
    assert bash(folder, "completion", "") == {"bash", "zsh", "fish"}
    assert bash(folder, "generate", "--prompt", "") == set()


def test_bash_completes_keys_and_their_values(folder):
    keys = {row.split()[0] for row in run_program("adept", "config", "--explain").stdout.splitlines()[1:] if row}
    assert "train.learning_rate=" in bash(folder, "run", "c.yaml", "--set", "train.l")
    offered = {key.removesuffix("=").replace(".0.", ".N.") for key in bash(folder, "run", "--set", "")}
    assert offered == {key for key in keys if "." in key or key.islower()} and len(offered) > 50
    assert bash(folder, "run", "--set", "method", "=", "lo") == {"lora"}
    assert bash(folder, "config", "--explain", "train.learning") == {"train.learning_rate"}
    assert bash(folder, "run", "--set", "=", "train.lr_scheduler", "=", "co") == {"cosine", "constant"}


@needs_fish
def test_fish_completes_commands_options_and_values(folder):
    assert COMMANDS <= fish(folder, "")
    assert fish(folder, "generate --cha") == {"--chat", "--chat-template"}
    assert fish(folder, "eval --dtype b") == {"bf16"}
    assert fish(folder, "run --set method=lo") == {"method=lora"}
    assert fish(folder, "completion f") == {"fish"}
    assert {word.replace("\\ ", " ") for word in fish(folder, "eval --model so")} == {"some model/"}
    assert any(word.startswith("some") for word in fish(folder, "eval --data so"))


@needs_zsh
def test_zsh_completes_commands_options_and_values(folder):
    """An interactive zsh on a terminal of its own: completes a line, which then runs."""
    terminal, other_end = pty.openpty()
    adept = folder / "bin" / "adept"
    adept.parent.mkdir(exist_ok=True)
    adept.write_text('#!/bin/sh\nprintf "<%s>" "$@" > answer\nmv answer answers\n')
    adept.chmod(0o755)
    environment = {**os.environ, "PATH": f"{adept.parent}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(folder)}
    process = subprocess.Popen(["zsh", "-f", "-i"], cwd=folder, env=environment, stdin=other_end, stdout=other_end,
                               stderr=other_end, start_new_session=True)  # fmt: skip
    os.close(other_end)

    def answer(line):
        (folder / "answers").unlink(missing_ok=True)
        os.write(terminal, line.encode() + b"\n")
        for _ in range(600):
            if (folder / "answers").exists():
                return (folder / "answers").read_text()
            time.sleep(0.1)
        raise AssertionError(os.read(terminal, 100_000).decode(errors="replace"))

    try:
        os.write(terminal, b"autoload -U compinit; compinit -u -D; source ./script.zsh; adept ready\n")
        assert answer("adept started") == "<started>"
        assert answer("adept gener\t--cha\t") in ("<generate><--chat>", "<generate><--chat-template>")
        assert answer("adept eval --dtype b\t") == "<eval><--dtype><bf16>"
        assert answer("adept eval --model so\t") == "<eval><--model><some model>"
        assert answer("adept run --set train.learning_r\t1") == "<run><--set><train.learning_rate=1>"
        assert answer("adept run --set method=lo\t") == "<run><--set><method=lora>"
        assert answer("adept eval --data n=some\\ d\t") == "<eval><--data><n=some data.jsonl>"
        assert answer("adept completion f\t") == "<completion><fish>"
    finally:
        os.close(terminal)
        process.wait()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_valid(shell, folder):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    process = subprocess.run([shell, "-n", folder / f"script.{shell}"], capture_output=True, text=True)
    assert process.returncode == 0 and process.stderr == ""


def test_an_unknown_shell_is_refused():
    process = run_program("adept", "completion", "tcsh", check=False)
    assert process.returncode == 2
    assert process.stderr == (
        'error: adept completion: shell: found "tcsh"; expected bash, zsh or fish. See: adept completion --help\n'
    )


def test_cmake_installs_the_program_with_its_completion(tmp_path):
    process = subprocess.run(["cmake", "--install", BUILD, "--prefix", tmp_path], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert installed == {
        "bin/adept",
        "lib/adept/libadept_arrow.so",
        "share/bash-completion/completions/adept",
        "share/zsh/site-functions/_adept",
        "share/fish/vendor_completions.d/adept.fish",
        "share/doc/adept/LICENSE",
        "share/doc/adept/LICENSE.llama.cpp",
        "share/doc/adept/README.md",
    }
    version = subprocess.run([tmp_path / "bin" / "adept", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert version.stdout == run_program("adept", "--version").stdout and version.stderr == ""
    for shell, file in {"bash": "bash-completion/completions/adept", "zsh": "zsh/site-functions/_adept",
                        "fish": "fish/vendor_completions.d/adept.fish"}.items():  # fmt: skip
        assert (tmp_path / "share" / file).read_text() == run_program("adept", "completion", shell).stdout

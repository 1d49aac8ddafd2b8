"""The program as scripts meet it: exit codes, messages on standard error, results on standard output."""

import fcntl
import gzip
import json
import os
import pty
import re
import struct
import subprocess
import termios

import pytest
import text_models
import torch

from conftest import BUILD, reads, run_program, says

CONFIG = """\
model: base
output_dir: out
data:
  train:
    - {name: med, path: med.txt, weight: 0.7}
    - {name: replay, path: [general.jsonl.gz, more/], weight: 0.3}
  general: [{name: gen, path: "*.txt"}]
train:
  learning_rate: 5e-4
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What CONFIG names."""
    folder = tmp_path_factory.mktemp("files")
    text_models.save("llama_tied", folder / "base", num_hidden_layers=8)
    (folder / "more").mkdir()
    text_models.write_jsonl(folder / "more" / "some.jsonl", text_models.sentences("general", 3))
    (folder / "med.txt").write_text("The patient has a fever.")
    with gzip.open(folder / "general.jsonl.gz", "wt") as file:
        file.write('{"text": "One line."}\n')
    return folder


@pytest.fixture
def config(files, monkeypatch):
    monkeypatch.chdir(files)
    path = files / "run.yaml"
    path.write_text(CONFIG)
    return path


def run(*arguments, **options):
    return run_program("adept", *arguments, check=False, **options)


def assert_usage_error(process, message):
    assert process.returncode == 2, process
    assert reads(process.stderr, f"error: {message}\n"), process.stderr
    assert process.stdout == ""


def test_version_names_commit_torch_and_compiler():
    process = run("--version")
    assert process.returncode == 0
    assert process.stdout.startswith("adept 0.")
    for word in ("commit ", "torch 2.", "GNU "):
        assert word in process.stdout
    assert process.stdout.count("\n") == 1 and process.stderr == ""


def test_help_lists_commands_and_commands_have_help():
    process = run("--help")
    assert process.returncode == 0 and process.stderr == ""
    names = [line.split()[0] for line in process.stdout.partition("Subcommands:")[2].splitlines() if line.strip()]
    assert "config" in names
    for name in names:
        own = run(name, "--help")
        assert own.returncode == 0 and f"adept {name}" in own.stdout, name


def test_no_arguments_print_the_help_and_fail():
    process = run()
    assert process.returncode == 2
    assert process.stdout == "" and "Subcommands:" in process.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["confg"], 'unknown command "confg"..."config"? See: adept --help'),
        (["frobnicate"], 'unknown command "frobnicate". See: adept --help'),
        (["--verzion"], 'unknown option "--verzion"..."--version"? See: adept --help'),
        (["config"], "adept config: expected CONFIG.yaml or --explain. See: adept config --help"),
        (
            ["config", "--explian"],
            'unknown option "--explian" of adept config..."--explain"? See: adept config --help',
        ),
        (["config", "a", "b"], 'adept config: found "b"; expected ...See: adept config --help'),
        (["config", "a", "seed=1"], 'adept config: found "seed=1"; expected --set ...See: adept config --help'),
        (["config", "/no/such.yaml"], "/no/such.yaml: cannot open...No such file or directory..."),
        (["config", "/"], "/: found a directory; expected a YAML file"),
    ],
)
def test_wrong_command_lines(arguments, message):
    assert_usage_error(run(*arguments), message)


def test_config_prints_the_resolved_configuration_which_loads_again(config, tmp_path):
    process = run("config", config)
    assert process.returncode == 0 and process.stderr == ""
    assert "\n  learning_rate: 0.0005\n" in process.stdout
    assert "\n  num_layers: 4\n" in process.stdout
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(process.stdout)
    assert run("config", resolved).stdout == process.stdout


def test_the_resolved_configuration_is_yaml_to_others(config):
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load(run("config", config, "--set", "output_dir=no", "--set", "train.adam_eps=1e-300").stdout)
    assert document["train"]["learning_rate"] == 5e-4
    assert document["output_dir"] == "no"
    assert document["train"]["max_steps"] is None
    assert [source["weight"] for source in document["data"]["train"]] == [0.7, 0.3]


def test_set_overrides_and_repeats(config):
    process = run("config", config, "--set", "train.learning_rate=1e-3", "--set", "expand.after=[3, 7]", "--set", "seed=7")
    assert process.returncode == 0
    for line in ("seed: 7", "  learning_rate: 0.001", "  after: [3, 7]", "  num_layers: null"):
        assert f"\n{line}\n" in process.stdout


def test_all_problems_are_reported_at_once(config):
    config.write_text(CONFIG.replace("5e-4", "fast") + "  epochs: 3\nseqlen: 8\n")
    assert_usage_error(
        run("config", config, "--set", "data.train.0.weight=-1"),
        f'{config}:9: train.learning_rate: found "fast"; expected a number > 0\n'
        f"{config}:10: train.epochs: ...unknown key... train.num_train_epochs?\n"
        f"{config}:11: seqlen: ...unknown key... seq_len?\n"
        "--set data.train.0.weight=-1: data.train.0.weight: found -1; expected a number > 0 and <= 1000000, or a list [[progress, value], ...]",
    )


def test_explain_has_a_line_for_every_key():
    process = run("config", "--explain")
    assert process.returncode == 0
    table, hint = process.stdout.split("\n\n")
    header, *rows = table.splitlines()
    assert header.split() == ["KEY", "DEFAULT", "MEANING"] and "adept config --explain KEY" in hint
    columns = [header.index(word) for word in header.split()] + [None]
    for row in rows:
        cells = [row[begin:end].strip() for begin, end in zip(columns, columns[1:])]
        assert all(cells) and len(row) <= 100, row
    keys = [row.split()[0] for row in rows]
    assert len(keys) == len(set(keys)) and "train.learning_rate" in keys and "data.train.N.path" in keys


def test_explain_fits_the_terminal():
    terminal, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.run([BUILD / "adept", "config", "--explain", "lora"], stdout=other_end, check=True)
    os.close(other_end)
    lines = os.read(terminal, 65536).decode().splitlines()
    assert process.returncode == 0 and "lora.target_modules" in lines and max(map(len, lines)) <= 80


def test_explain_says_all_about_keys_and_sections():
    process = run("config", "--explain", "train.learning_rate", "top_k_layers")
    assert process.returncode == 0 and process.stderr == ""
    described = re.sub(r"^  meaning  \w.*$", "  meaning  ...", process.stdout, flags=re.MULTILINE)
    assert described == (
        "train.learning_rate\n  type     number > 0\n  default  0.0002\n  meaning  ...\n"
        "top_k_layers.num_layers\n  type     integer from 1 to 10000\n  default  4\n  unit     layers\n"
        "  methods  top_k_layers\n  meaning  ...\n"
    )
    assert re.search(r"meaning  .*learning rate", process.stdout) and re.search(r"meaning  .*last layers", process.stdout)
    assert_usage_error(run("config", "--explain", "lr"), "--explain lr: ...unknown key... train.learning_rate?")


def test_config_can_come_from_a_pipe(config):
    process = subprocess.run(
        ["bash", "-c", f'"{BUILD / "adept"}" config <(cat "{config}")'], capture_output=True, text=True
    )
    assert process.returncode == 0 and process.stdout.startswith("model: base\n")


def test_a_reader_that_leaves_is_told_by_the_exit_code_alone():
    script = f'set -o pipefail; "{BUILD / "adept"}" config --explain | true'
    process = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert process.returncode == 141 and process.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_a_failure():
    with open("/dev/full", "w") as full:
        process = subprocess.run([BUILD / "adept", "config", "--explain"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    assert reads(process.stderr, "error: standard output: ...No space left on device...\n")


def test_longer_sequences_than_the_model_was_made_for_are_warned_of(tmp_path):
    model = text_models.save("llama_tied", tmp_path / "model")
    text = text_models.write_jsonl(tmp_path / "text.jsonl", text_models.sentences("general", 3))
    assert "seq_len 513 exceeds max_position_embeddings 512 of" in run("eval", "--model", model, "--data", text, "--seq-len", 513).stderr
    assert "positions" not in run("eval", "--model", model, "--data", text, "--seq-len", 512).stderr


def test_the_live_line_never_wraps(tmp_path):
    model = text_models.save("llama_tied", tmp_path / "model")
    text = text_models.write_jsonl(tmp_path / "text.jsonl", text_models.sentences("general", 1500))
    terminal, other_end = pty.openpty()
    columns = 30
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [BUILD / "adept", "probe", "--model", model, "--data", text, "--out", tmp_path / "scores.json"]
    process = subprocess.Popen([*command, "--max-tokens", "0"], stdout=subprocess.DEVNULL, stderr=other_end)
    os.close(other_end)
    output = b""
    try:
        while chunk := os.read(terminal, 65536):
            output += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0, output
    lines = re.split(r"[\r\n]+", output.decode())
    shown = [line.removesuffix("\x1b[K") for line in lines if line.endswith("\x1b[K")]
    live = [line for line in shown if not re.search(r" in \d+:\d\d", line)]  # the last line of a stage stays, and may be long
    assert any(line.startswith("probe") for line in live), lines
    assert all(len(line) < columns for line in live), live


def test_expanding_an_expanded_model_says_what_its_copies_are_now(tmp_path):
    text_models.save("llama_tied", tmp_path / "base")
    first = run_program("adept", "expand", "--model", "base", "--out", "once", "--after", "1", cwd=tmp_path)
    assert first.stderr == ""
    second = run_program("adept", "expand", "--model", "once", "--out", "twice", "--after", "3", cwd=tmp_path)
    assert says(second.stderr, "once: ...already expanded...copies ...layers of the base")


def test_a_model_that_was_dialed_before_is_told(tmp_path):
    text_models.save("llama_tied", tmp_path / "base")
    run_program("adept", "expand", "--model", "base", "--out", "expanded", "--after", "1", cwd=tmp_path)
    first = run_program("adept", "dial", "--model", "expanded", "--alpha", "0.5", "--out", "half", cwd=tmp_path)
    assert first.stderr == ""
    second = run_program("adept", "dial", "--model", "half", "--alpha", "0.5", "--out", "quarter", cwd=tmp_path)
    assert re.search(r"half: .*already dialed.*alpha 1 ", second.stderr)


def test_what_a_method_settles_itself_is_told(config):
    process = run("config", config, "--set", "method=llama_pro", "--set", "expand.strategy=highest", "--set", "unit_lr.policy=normalized")
    assert process.returncode == 0
    assert says(process.stderr, "--set expand.strategy=highest: expand.strategy: ...llama_pro ...uniform ...highest")
    assert says(process.stderr, "--set unit_lr.policy=normalized: unit_lr.policy: ...llama_pro ...uniform ...normalized")
    assert "\n  strategy: uniform\n" in process.stdout and "\n  policy: uniform\n" in process.stdout


def test_the_dtype_auto_is_said_and_follows_the_instructions(tmp_path):
    text_models.save("llama_tied", tmp_path / "wide")
    text_models.save("llama_tied", tmp_path / "narrow", dtype=torch.bfloat16)
    text_models.write_jsonl(tmp_path / "text.jsonl", text_models.sentences("general", 5))

    def said(command, model, *arguments, **environment):
        log = run_program("adept", command, "--model", model, *arguments, cwd=tmp_path, env=os.environ | environment).stderr
        return [line.partition("dtype: ")[2] for line in log.splitlines() if "dtype: " in line]

    text = ["--data", "text.jsonl", "--seq-len", "32"]
    no, none = ["fp32 (auto: this processor does not multiply bf16 natively)"], {"ADEPT_INSTRUCTION_SET": "generic"}
    assert said("eval", "narrow", *text, **none) == no
    assert said("probe", "wide", *text, "--out", "scores.json", **none) == no
    assert said("generate", "wide", "--prompt", "a", "--max-new-tokens", "1", **none) == no
    assert said("eval", "narrow", *text, "--dtype", "bf16") == said("eval", "narrow", *text, "--dtype", "fp32") == []
    assert said("eval", "wide", *text) == ["fp32 (auto: the weights of wide are fp32, which bf16 would round)"]
    explained = run("config", "--explain", "dtype").stdout
    assert "  default  auto\n" in explained
    native = said("eval", "narrow", *text)
    assert native in (no, ["bf16 (auto: this processor multiplies bf16 natively)"])
    assert native == said("probe", "wide", *text, "--out", "scores.json"), "one rule"


def test_the_kernels_and_their_instructions_can_be_chosen(tmp_path):
    text_models.save("llama_tied", tmp_path / "base")
    text_models.write_jsonl(tmp_path / "text.jsonl", text_models.sentences("general", 5))

    def loss(*arguments, **environment):
        run_program("adept", "eval", "--model", "base", "--data", "text.jsonl", "--out", "scores.json", "--dtype", "fp32", *arguments,
                    cwd=tmp_path, env=os.environ | environment)  # fmt: skip
        return json.loads((tmp_path / "scores.json").read_text())["datasets"]["text"]["loss"]

    fused = loss()
    assert loss("--kernels", "reference") == pytest.approx(fused, rel=1e-5)
    assert loss(ADEPT_INSTRUCTION_SET="generic") == pytest.approx(fused, rel=1e-5)
    assert loss(ADEPT_INSTRUCTION_SET="") == fused  # not chosen
    process = run_program("adept", "eval", "--model", "base", "--data", "text.jsonl", cwd=tmp_path, check=False,
                          env=os.environ | {"ADEPT_INSTRUCTION_SET": "mmx"})  # fmt: skip
    assert process.returncode == 2
    assert 'ADEPT_INSTRUCTION_SET: found "mmx"; expected one that this processor has: ' in process.stderr

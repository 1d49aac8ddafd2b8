"""Every command of the README and every shipped configuration runs, on a tiny model and a few lines of text."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import torch
import transformers

from conftest import BUILD, ROOT

sys.path.insert(0, str(ROOT / "tests" / "parity"))
from gguf_files import write_model  # noqa: E402

SMALL_RUN = ["--set", "train.max_steps=6", "--set", "train.batch_size=1", "--set", "seq_len=32", "--set",
             "probe.max_tokens=256", "--set", "unit_lr.probe_tokens=64", "--set", "eval.max_tokens=256"]


def readme_commands():
    text = (ROOT / "README.md").read_text()
    lines = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
    return [line for line in lines if line.strip()]


def run(command, folder):
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{process.stdout}\n{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's commands are typed: a model `base`, some text, the configurations."""
    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=5,
                                      num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    write_model(folder / "model.gguf", transformers.LlamaForCausalLM(config))
    run([BUILD / "adept", "import-gguf", "--gguf", "model.gguf", "--out", "base"], folder)
    (folder / "base" / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    for name in ("domain", "heldout", "general", "replay"):
        texts = [f"The {name} text number {i} says: {'some words ' * (i % 7)}and ends." for i in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "tokens.txt").write_text("arachnodactyly\nhyperphenylalaninaemia\n")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def test_the_commands_of_the_readme_run_in_their_order(folder):
    commands = readme_commands()
    assert {shlex.split(command)[1] for command in commands} >= {
        "run", "probe", "expand", "train", "eval", "generate", "tokenize", "import-gguf", "expand-vocab", "config"}
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "adept", command
        if words[1] in ("run", "train"):
            words += SMALL_RUN
        run([str(BUILD / "adept"), *words[1:]], folder)
    assert (folder / "runs" / "example" / "model" / "model.safetensors").is_file()
    assert json.loads((folder / "results.json").read_text())["datasets"].keys() == {"domain", "general"}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "runs" / "steps" / "model")
    assert model.config.num_hidden_layers == 7


def test_the_comparison_of_the_readme_trains_every_method(folder):
    command = shlex.split(re.search(r"`(bench/methods [^`]+)`", (ROOT / "README.md").read_text())[1])
    process = subprocess.run([ROOT / command[0], *command[1:], *SMALL_RUN, "--set", "train.max_steps=2"], cwd=folder, capture_output=True,
                             text=True, env={**os.environ, "ADEPT_PYTHON": sys.executable, "ADEPT_BUILD": str(BUILD)})  # fmt: skip
    assert process.returncode == 0, process.stderr
    rows = [line.strip("| ").split(" | ") for line in process.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == ["base", "adept", "llama_pro", "full", "replay", "lora", "top_k_layers"]
    assert (folder / "runs" / "compared" / "methods.md").read_text() == process.stdout


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_a_shipped_configuration_runs(config, folder):
    data = ["--set", f"output_dir=runs/shipped-{pathlib.Path(config).stem}"]
    if config != "example.yaml":  # which has the names of the README's files
        names = {"data.train.0": "domain", "data.train.1": "general", "data.general.0": "general", "data.eval.0": "heldout",
                 "data.eval.1": "general"}  # fmt: skip
        paths = [f"{key}.path={file}.jsonl" for key, file in names.items()]
        data += [word for setting in ["model=base", *paths] for word in ("--set", setting)]
    output = run([str(BUILD / "adept"), "run", f"configs/{config}", *SMALL_RUN, *data], folder)
    assert "peak memory" in output


def test_the_method_is_documented_choice_by_choice():
    text = (ROOT / "docs" / "method.md").read_text()
    for key in ("probe.method", "expand.strategy", "unit_lr.policy"):
        explained = run([BUILD / "adept", "config", "--explain", key], ROOT)
        choices = re.split(r"\W+", re.search(r"^  type +(.+?)^  default", explained, re.MULTILINE | re.DOTALL)[1].strip())
        assert len(choices) >= 3 and all(f"| `{choice}`" in text for choice in choices), (key, choices)

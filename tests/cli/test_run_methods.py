"""Other training methods, and the comparison of methods by one command."""

import json
import os
import re
import subprocess
import sys

import pytest
import text_models
import torch
from conftest import BUILD, ROOT, run_program
from safetensors.torch import load_file, save_file
from whole_runs import finished, kept, run  # noqa: F401


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

"""What `adept run` refuses to overwrite or to continue."""

import shutil
import signal
import subprocess
import time

import pytest
from conftest import BUILD, reads, run_program, says
from whole_runs import copied, finished, run, snapshot  # noqa: F401


def test_a_run_inside_the_folder_of_its_text_is_not_read_as_text(finished):
    """The second call finds the first one's records, and models, there."""
    process = run_program("adept", "tokenize", "--model", "base", "--data", "all=.", "--on-bad-record", "skip", cwd=finished[0])
    assert "folder of an adept run" in process.stderr and "model folder" in process.stderr
    process = run(finished[0], "--set", "output_dir=notes", check=False)
    assert process.returncode == 2 and 'output_dir notes: is an input of the source "domain"' in process.stderr


def test_other_training_in_the_same_directory_is_refused_by_name(copied):
    before = snapshot(copied / "out")
    process = run(copied, "--set", "train.learning_rate=5e-4", "--set", "seed=1", check=False)
    assert process.returncode == 2
    assert reads(
        process.stderr.partition("error: ")[2],
        "out/checkpoint-6: ...different run:\n  seed: was 42, now 1\n  train.learning_rate: was 0.001, now 0.0005\n...output_dir.\n",
    )
    for change in ("seq_len=32", "expand.num_layers=1", "probe.max_tokens=500", "dtype=bf16"):
        process = run(copied, "--set", change, check=False)
        assert process.returncode == 2 and "another output_dir" in process.stderr, change
    assert snapshot(copied / "out") == before, "what is refused changes nothing, records included"
    other_text = copied / "notes" / "a.txt"
    other_text.write_text(other_text.read_text() + "\nmore")
    process = run(copied, "--set", "train.max_steps=1", check=False)
    assert process.returncode == 2
    assert 'source "domain": its data (text, tokenizer, tag or excluded documents) has changed' in process.stderr
    assert "error: out/checkpoint-6: " in process.stderr


@pytest.mark.parametrize("output_dir, model", [(".", "model"), ("base", "base"), ("runs/a", "runs/a/expanded"), (".", "./model/../model")])
def test_the_model_that_a_run_starts_from_is_never_overwritten(finished, tmp_path, output_dir, model):
    shutil.copytree(finished[0], tmp_path / "copy", ignore=shutil.ignore_patterns("out"))
    folder = tmp_path / "copy"
    (folder / model).parent.mkdir(parents=True, exist_ok=True)
    if model != "base":
        shutil.move(folder / "base", folder / model)
    before = snapshot(folder)
    process = run(folder, "--set", f"output_dir={output_dir}", "--set", f"model={model}", check=False)
    assert process.returncode == 2
    assert "would be overwritten" in process.stderr or "which is the model" in process.stderr
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", ["model", "expanded"])
def test_what_others_put_into_the_directory_is_not_replaced(finished, tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / name / "thesis.txt").write_text("years of work")
    process = run(finished[0], "--set", f"output_dir={tmp_path}/run", check=False)
    assert process.returncode == 2 and "exists but is not the result of a run in" in process.stderr
    assert (tmp_path / "run" / name / "thesis.txt").read_text() == "years of work"


def test_models_that_other_commands_made_are_not_replaced(finished, tmp_path):
    folder = finished[0]
    for name in ("model", "expanded"):
        out = tmp_path / f"with_{name}"
        run_program("adept", "expand", "--model", folder / "base", "--out", out / name, "--after", "1", cwd=folder)
        before = snapshot(out)
        process = run(folder, "--set", f"output_dir={out}", check=False)
        assert process.returncode == 2
        assert says(process.stderr, f"output_dir: {out}/{name} exists but ...{out}")
        assert snapshot(out) == before


def test_two_runs_in_one_directory_are_refused(finished, tmp_path):
    folder = finished[0]
    settings = ["--set", f"output_dir={tmp_path}/run", "--set", "train.max_steps=10000", "--set", "eval.max_tokens=300"]
    first = subprocess.Popen([BUILD / "adept", "run", "run.yaml", *settings], cwd=folder, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "run" / "config.yaml").exists():
        time.sleep(0.01)
    process = run(folder, *settings, check=False)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143
    assert process.returncode == 1 and f"process {first.pid} is using this folder" in process.stderr

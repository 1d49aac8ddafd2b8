"""What a second call of `adept run` does in the same directory: after a change, a loss, an interrupt, a full disk."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
import text_models
from conftest import BUILD, run_program, says
from whole_runs import STAGES, base_config, copied, finished, kept, run, table  # noqa: F401


def test_a_second_call_keeps_every_stage(copied, finished):
    process = run(copied)
    assert kept(process) == STAGES
    assert table(process) == table(finished[1])
    assert process.stdout.count("(kept)") == len(STAGES)


def test_text_is_known_by_its_contents_wherever_it_is(copied):
    (copied / "notes").rename(copied / "moved")
    (copied / "more.txt.gz").rename(copied / "other.txt.gz")
    (copied / "held.txt").rename(copied / "kept.txt")
    process = run(copied, "--set", "data.train.0.path=[moved, other.txt.gz]", "--set", "data.eval.0.path=kept.txt")
    assert kept(process) == STAGES


def test_what_changed_is_done_again_and_nothing_else(copied):
    other_eval = run(copied, "--set", "eval.max_tokens=300")
    assert kept(other_eval) == ["probe", "expand", "train"]
    assert "eval.max_tokens" not in other_eval.stderr
    (copied / "domain.jsonl").write_text('{"text": "a few other words"}\n')
    assert kept(run(copied, "--set", "eval.max_tokens=300")) == ["probe", "expand", "train"]
    shutil.rmtree(copied / "out" / "model")
    again = run(copied, "--set", "eval.max_tokens=300")
    assert kept(again) == ["baseline", "probe", "eval", "copies"]
    assert "resuming after step 6 of 6" in again.stderr


def test_the_expanded_model_goes_after_training_and_is_made_again_where_it_is_needed(copied, finished):
    out = copied / "out"
    assert not (out / "expanded").exists()
    assert kept(run(copied)) == STAGES, "nothing is done again because it is gone"
    assert not (out / "expanded").exists()
    wanted = run(copied, "--set", "keep_expanded=true")
    assert kept(wanted) == ["baseline", "probe", "train", "eval", "copies"] and (out / "expanded" / "model.safetensors").exists()
    assert kept(run(copied)) == STAGES and not (out / "expanded").exists()
    (out / "stages" / "train.json").unlink()  # as a kill just before the end leaves it
    again = run(copied)
    assert kept(again) == ["baseline", "probe", "eval", "copies"] and table(again) == table(finished[1])
    assert not (out / "expanded").exists()
    run_program("adept", "dial", "--model", "out/model", "--alpha", "0.5", "--out", "dialed", cwd=copied)


def test_the_dtype_auto_is_that_of_the_machine_and_then_of_the_run(finished, tmp_path):
    folder = finished[0]
    config = base_config(dtype="auto", expand={"after": [1]}, train={"max_steps": 2}, unit_lr={"policy": "uniform"})
    (folder / "auto.yaml").write_text(json.dumps(config))

    def run_auto(out, *arguments, **environment):
        return run_program("adept", "run", "auto.yaml", "--set", f"output_dir={tmp_path / out}", *arguments, cwd=folder,
                           env={**os.environ, **environment})  # fmt: skip

    first = run_auto("plain", ADEPT_INSTRUCTION_SET="generic")
    assert says(first.stderr, "dtype: fp32 (auto: ...not ...bf16 natively)")
    assert "\ndtype: fp32\n" in (tmp_path / "plain" / "config.yaml").read_text()
    run_auto("narrow", "--dtype", "bf16")
    for out, dtype, environment in (("plain", "fp32", {}), ("narrow", "bf16", {"ADEPT_INSTRUCTION_SET": "generic"})):
        again = run_auto(out, **environment)
        assert says(again.stderr, f"dtype: {dtype} (auto: ...{tmp_path / out}/config.yaml")
        assert kept(again) == ["baseline", "expand", "train", "eval", "copies"]
    refused = run_program("adept", "run", "auto.yaml", "--set", f"output_dir={tmp_path}/plain", "--dtype", "bf16", cwd=folder, check=False)
    assert refused.returncode == 2 and "dtype: was " in refused.stderr


def test_a_result_that_was_damaged_or_lost_is_made_again(copied, finished):
    keep = ["--set", "keep_expanded=true"]
    run(copied, *keep)
    for name in ("model/model.safetensors", "expanded/model.safetensors"):
        path = copied / "out" / name
        whole = path.read_bytes()
        for spoil in (lambda: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])), path.unlink):
            spoil()
            process = run(copied, *keep)
            assert "repeating the stage" in process.stderr and path.read_bytes() == whole
            assert table(process) == table(finished[1])


def test_weights_of_the_text_that_decides_rates_decide_the_training(finished, tmp_path):
    """Also where the layers are chosen by hand, so that no probe depends on them."""
    def run_with(weight, **options):
        sources = [{"name": f"probe-{i}", "path": f"probe-{i}.jsonl", "weight": w} for i, w in enumerate((weight, 1))]
        return run(finished[0], "--set", f"output_dir={tmp_path}/run", "--set", "expand={after: [0]}", "--set", "train.max_steps=2",
                   "--set", f"data.general={json.dumps(sources)}", **options)  # fmt: skip

    run_with(1)
    assert "train" in kept(run_with(1))
    other = run_with(3, check=False)
    assert other.returncode == 2 and "probe_text" in other.stderr
    alone = ["--set", f"output_dir={tmp_path}/run", "--set", "method=full", "--set", "train.max_steps=2"]
    source = [{"name": "probe-0", "path": "probe-0.jsonl"}]
    for weight in ({}, {"weight": 3}):  # the weight of the only source, and of text that the method does not use
        process = run(finished[0], "--set", f"output_dir={tmp_path}/alone", *alone[2:], "--set", f"data.general={json.dumps([source[0] | weight])}")
    assert "train" in kept(process)


def arguments_of_many_epochs(out):
    settings = [f"output_dir={out}", "train.max_steps=120", "train.save_steps=0", "train.eval_steps=0", "eval.max_tokens=200"]
    return ["run", "run.yaml", *(word for setting in settings for word in ("--set", setting))]


def test_an_interrupted_training_goes_on_with_its_activation_cache(finished, tmp_path):
    folder = finished[0]
    process = subprocess.Popen(
        [BUILD / "adept", *arguments_of_many_epochs(tmp_path / "run")], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "trainer_log.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 20):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    messages = process.communicate()[1]
    assert process.returncode == 143, messages
    cache = tmp_path / "run" / "activations.cache"
    assert cache.stat().st_size > 0
    run_program("adept", *arguments_of_many_epochs(tmp_path / "run"), cwd=folder)
    assert not cache.exists()
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["activation_cache"]["positions_read"] > results["activation_cache"]["positions_computed"]
    run_program("adept", *arguments_of_many_epochs(tmp_path / "whole"), "--set", "train.activation_cache=0", cwd=folder)
    weights = pathlib.Path("model", "model.safetensors")
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def on_a_disk_of(size, folder, *command):
    """`command`, to be run where `folder` is an empty disk, which goes with the process; skips where that needs rights."""
    for namespace in (["--mount"], ["--mount", "--map-root-user"]):
        mounted = ["unshare", *namespace, "sh", "-c", f"mount -t tmpfs -o size={size} none '{folder}' && exec \"$@\"", "sh"]
        if shutil.which("unshare") and subprocess.run([*mounted, "true"], capture_output=True).returncode == 0:
            return [*mounted, *command]
    pytest.skip("no disk can be made to fill")


def test_on_a_full_disk_the_activation_cache_makes_way_for_a_checkpoint(finished, tmp_path):
    """The disk has room for the files that stay and hardly more. The cache takes less than half of what is free, but with
    it there is no room for the checkpoint."""
    folder, disk = finished[0], tmp_path / "disk"
    text = ["--set", "data.train=[{name: domain, path: [notes, more.txt.gz], txt_record: line}]", "--set", "keep_expanded=true"]
    run_program("adept", *arguments_of_many_epochs(tmp_path / "whole"), *text, cwd=folder)
    pages = sum(-(-path.stat().st_size // 4096) for path in (tmp_path / "whole").rglob("*"))
    disk.mkdir()
    save = f"\"$@\" && cp '{disk}/run/model/model.safetensors' '{tmp_path}'"
    command = ["sh", "-c", save, "sh", BUILD / "adept", *arguments_of_many_epochs(disk / "run"), *text]
    process = subprocess.run(on_a_disk_of(4096 * pages * 104 // 100, disk, *command), cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert re.search(r"checkpoint-120.*: No space left on device\..* Retrying without the activation cache\.\n", process.stderr)
    expected = tmp_path / "whole" / "model" / "model.safetensors"
    assert (tmp_path / "model.safetensors").read_bytes() == expected.read_bytes()


def test_another_method_in_the_same_directory_leaves_nothing_of_the_first(copied):
    shutil.rmtree(copied / "out" / "checkpoint-6")
    shutil.rmtree(copied / "out" / "checkpoint-4")
    run(copied, "--set", "keep_expanded=true")
    assert all((copied / "out" / name).exists() for name in ("importance.json", "expanded", "copies.json", "parameter_importance.jsonl"))
    run(copied, "--set", "method=full")
    assert not any((copied / "out" / name).exists() for name in ("importance.json", "expanded", "copies.json", "parameter_importance.jsonl"))
    assert json.loads((copied / "out" / "model" / "adept_training.json").read_text())["method"] == "full"


@pytest.mark.parametrize("stage, file", [("baseline", "data/held-domain.tokens/store.json"), ("probe", "eval_base.json")])
def test_an_interrupt_stops_a_stage_and_the_next_call_goes_on(finished, stage, file, tmp_path):
    folder = finished[0]
    out = tmp_path / "run"
    text_models.write_jsonl(tmp_path / "long.jsonl", text_models.sentences("general", 1500))
    settings = [
        f"output_dir={out}", "train.max_steps=1", "eval.max_tokens=0", "probe.max_tokens=0",
        f"data.{'eval' if stage == 'baseline' else 'general'}.0.path={tmp_path}/long.jsonl",
    ]  # fmt: skip
    arguments = ["run", "run.yaml", *(word for setting in settings for word in ("--set", setting))]
    for delay in (0, 0.1, 0.3, 1, 3):  # a signal that comes before the stage is one of the stage before it
        shutil.rmtree(out, ignore_errors=True)  # whose file would be there before the program is ready for signals
        process = subprocess.Popen(
            [BUILD / "adept", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and not (out / file).exists():
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        messages = process.communicate()[1]
        if "saved" in messages:
            break
    assert process.returncode == 130, messages
    done = "evaluation sets" if stage == "baseline" else "batches of the probe"
    kept_of_it = rf"error: interrupted \(SIGINT\); saved \d+ of \d+ {done}; the same command "
    assert re.search(kept_of_it, messages), messages
    assert json.loads((out / "stages" / f"{stage}.json").read_text())["interrupted"]
    assert not [path.name for path in out.rglob("*") if ".tmp" in path.name]
    before = ["baseline"] if stage == "probe" else []
    assert kept(run_program("adept", *arguments, cwd=folder)) == before

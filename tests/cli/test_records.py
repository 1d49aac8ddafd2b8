"""What a run keeps of itself: records that were damaged, models that changed, trainings that diverge, are extended or go on
with the data of another, and measurements that other runs use again."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import text_models
from conftest import BUILD, run_program, says
from safetensors.torch import load_file, save_file
from text_models import one_thread  # noqa: F401
from whole_runs import STAGES, kept, read_lines, snapshot


def configuration(**changes):
    config = dict(
        model="base",
        output_dir="out",
        threads=1,
        keep_expanded=True,
        seq_len=32,
        dtype="fp32",
        data={
            "train": [{"name": "domain", "path": "domain.jsonl"}],
            "general": [{"name": "general", "path": "general.jsonl"}],
            "eval": [{"name": "held", "path": "held.jsonl", "role": "domain"}, {"name": "more", "path": "general.jsonl"}],
        },
        probe={"max_tokens": 400},
        expand={"num_layers": 1},
        train={"max_steps": 4, "save_steps": 2, "logging_steps": 1, "eval_steps": 2, "learning_rate": 1e-3, "batch_size": 2},
        unit_lr={"update_every": 2, "probe_tokens": 200},
        eval={"max_tokens": 300},
    )
    return {**config, **changes}


def run(folder, *settings, command="run", check=True, flags=(), **options):
    arguments = [word for setting in settings for word in ("--set", setting)]
    return run_program("adept", command, "run.yaml", *arguments, *flags, cwd=folder, check=check, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    text_models.save("llama", folder / "base")
    for name, kind, seed in (("domain", "domain", 0), ("general", "general", 1), ("held", "domain", 2)):
        text_models.write_jsonl(folder / f"{name}.jsonl", text_models.sentences(kind, 30, seed=seed))
    (folder / "run.yaml").write_text(json.dumps(configuration(), indent=1))
    return folder, run(folder)


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def table(process):
    return [line for line in process.stdout.splitlines() if not line.startswith(("  time ", "  peak memory ", "  training "))]


def small_files(out):
    return sorted(
        path.relative_to(out)
        for path in out.rglob("*")
        if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml") and path.name not in ("tokenizer.json", "config.json") and path.parent.name != "results"
    )


def test_a_bit_flipped_in_any_small_file_of_a_run_changes_nothing(copied, finished):
    """Whatever is damaged is made again; nothing is said to have changed that has not."""
    out, whole = copied / "out", (copied / "out" / "model" / "model.safetensors").read_bytes()
    names = small_files(out)
    assert {"stages/train.json", "importance.json", "eval_base.json", "train_results.json"} <= {str(name) for name in names}
    for number, name in enumerate(names):
        good = (out / name).read_bytes()
        places = [len(good) // 3, len(good) - 20] if number % 2 else [len(good) // 2, 5]
        for place in places:
            bad = good[:place] + bytes([good[place] ^ (1 << number % 7)]) + good[place + 1 :]
            (out / name).write_bytes(bad)
            process = run(copied, check=False)
            context = f"{name} at {place}: {process.stderr}"
            assert process.returncode == 0, context
            assert table(process) == table(finished[1]), context
            assert "belongs to a different run" not in process.stderr and "is already expanded" not in process.stderr, context
            assert (out / "model" / "model.safetensors").read_bytes() == whole, context
            if (out / name).read_bytes() == bad:  # a checkpoint, which nobody needed
                (out / name).write_bytes(good)


def test_evaluations_record_their_metrics_so_that_a_build_with_others_repeats_them(finished):
    out = finished[0] / "out"
    for stage, file in (("baseline", "eval_base.json"), ("eval", "eval_model.json")):
        recorded = json.loads((out / "stages" / f"{stage}.json").read_text())["inputs"]["metrics"]
        result = json.loads((out / file).read_text())["datasets"]["held"]
        assert len(recorded) >= 3 and set(recorded) <= set(result), (recorded, result)


@pytest.mark.parametrize("name", [f"stages/{stage}.json" for stage in STAGES] + ["importance.json", "eval_base.json"])
def test_a_record_that_is_cut_short_is_named_and_its_stage_done_again(copied, finished, name):
    path = copied / "out" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process = run(copied)
    warnings = [line for line in process.stderr.splitlines() if line.startswith("warning: ") and "training text" not in line]
    assert len(warnings) == 1 and f"out/{name}: " in warnings[0] and warnings[0].endswith("repeating the stage"), warnings
    assert table(process) == table(finished[1])
    assert kept(run(copied)) == STAGES


def test_scores_of_a_user_that_are_damaged_are_an_error_that_names_the_file(copied):
    expand = ["expand", "--model", "base", "--importance", "out/importance.json", "--layers", 1, "--out", "deeper"]
    path = copied / "out" / "importance.json"
    good = path.read_text()

    def refusal(text):
        path.write_text(text)
        process = run_program("adept", *expand, cwd=copied, check=False)
        assert process.returncode == 1 and "please report" not in process.stderr, process.stderr
        return process.stderr

    assert "error: out/importance.json: not valid JSON" in refusal(good[: len(good) // 2])
    assert "error: out/importance.json: is damaged or was edited" in refusal(good.replace('"rank": 1', '"rank": 3'))
    edited = json.loads(good)
    del edited["checksum"]
    edited["stability"]["degrees_of_freedom"] = 0
    assert "stability.degrees_of_freedom is 0; expected at least 1" in refusal(json.dumps(edited))
    edited["stability"]["degrees_of_freedom"] = 5
    path.write_text(json.dumps(edited))
    run_program("adept", *expand, cwd=copied)


@pytest.mark.parametrize("command, settings", [("run", []), ("run", ["method=full", "output_dir=full"]), ("train", ["model=expanded"])])
def test_a_model_whose_config_changed_between_two_starts_is_another_model(copied, command, settings):
    if command == "train":
        shutil.copytree(copied / "out" / "expanded", copied / "expanded")
        settings = [*settings, "output_dir=trained"]
    flags = ["--resume"] if command == "train" else []
    run(copied, *settings, command=command)
    path = copied / ("expanded" if command == "train" else "base") / "config.json"
    config = json.loads(path.read_text())
    for key in ("rms_norm_eps", "rope_theta"):
        parent = config if key in config else config["rope_parameters"]
        changed = json.loads(path.read_text())
        (changed if key in changed else changed["rope_parameters"])[key] = parent[key] * 1.1
        path.write_text(json.dumps(changed))
        for extra in ([], ["train.max_steps=6"]):
            process = run(copied, *settings, *extra, command=command, flags=flags, check=False)
            assert process.returncode == 2, process.stderr
            assert "model.config.json: has changed" in process.stderr and "weights" not in process.stderr.split("error:")[1]
    path.write_text(json.dumps(config))


def test_a_perplexity_that_is_infinite_is_read_back(copied):
    tensors = load_file(copied / "base" / "model.safetensors")
    tensors["lm_head.weight"] *= 3e4
    save_file(tensors, copied / "base" / "model.safetensors", metadata={"format": "pt"})
    settings = ["output_dir=far", "method=full", "train.learning_rate=1e-6", "train.max_steps=1", "train.eval_steps=0"]
    for _ in range(2):
        process = run(copied, *settings)
        assert " inf " in process.stdout
    results = json.loads((copied / "far" / "eval_base.json").read_text())["datasets"]["held"]
    assert results["perplexity"] is None and results["loss"] > 710 and math.isfinite(results["bits_per_byte"])
    run_program("adept", "eval", "--model", "base", "--data", "held.jsonl", "--out", "far.json", cwd=copied)


@pytest.mark.parametrize("rate", ["1e36", "1e38", "1e300"])
@pytest.mark.parametrize("changes", [["method=full"], ["unit_lr.update_every=1"], ["train.eval_steps=1"], ["method=lora", "dtype=bf16"]])
def test_a_run_that_diverges_ends_with_its_reason_and_no_model(copied, rate, changes):
    settings = [f"train.learning_rate={rate}", "output_dir=diverged", "train.warmup_steps=0", "train.eval_steps=0", *changes]
    for steps, texts in ((1, []), (3, ["data.eval=[]"] if "train.eval_steps=1" not in changes else [])):
        process = run(copied, *settings, f"train.max_steps={steps}", *texts, check=False)
        assert process.returncode == 3, process.stderr
        message = process.stderr.split("error: ")[1]
        assert "diverged" in message and "train.learning_rate" in message
        assert "unit importance" not in message and "damaged" not in message
        assert not (copied / "diverged" / "model").exists() and not list((copied / "diverged").glob("checkpoint-*"))
        shutil.rmtree(copied / "diverged")


def test_a_training_is_extended_and_split_otherwise(copied):
    process = run(copied, "train.max_steps=7", "train.batch_size=1", "train.grad_accum=2")
    assert says(process.stderr, "from 4 to 7 steps; from step 5 ...learning rate is ")
    assert kept(process) == ["baseline", "probe", "expand"]
    log = [line for line in read_lines(copied / "out" / "trainer_log.jsonl") if "loss" in line]
    assert [line["current_steps"] for line in log] == [1, 2, 3, 4, 5, 6, 7]
    assert log[4]["lr"] > log[3]["lr"] and json.loads((copied / "out" / "all_results.json").read_text())["train_steps"] == 7
    shorter = run(copied, "train.max_steps=5", check=False)
    assert shorter.returncode == 2
    assert says(shorter.stderr, "train.max_steps: found 5...out/checkpoint-7 ...7 steps; expected at least")
    other = run(copied, "train.max_steps=7", "train.batch_size=4", check=False)
    assert other.returncode == 2 and "train.batch_size x grad_accum x processes: was 2, now 4" in other.stderr


def test_a_model_goes_on_with_the_data_where_its_run_stopped(copied):
    record = json.loads((copied / "out" / "model" / "adept_training.json").read_text())
    settings = ["model=out/model", "output_dir=more", "train.max_steps=2", "train.eval_steps=0"]
    run(copied, *settings, command="train", flags=["--continue-data"])
    state = json.loads((copied / "more" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["loader"]["sequences"] == record["data"]["sequences"] + 4
    assert "continue_data: true" in (copied / "more" / "config.yaml").read_text()
    other = run(copied, *settings, command="train", flags=["--resume"], check=False)
    assert other.returncode == 2 and "train.continue_data: was true, now false" in other.stderr
    base = run(copied, "output_dir=no", flags=["--continue-data"], check=False)
    assert base.returncode == 2 and says(base.stderr, "train.continue_data: base ...no record of its position")


def test_what_is_made_of_a_trained_model_goes_on_with_its_data_too(copied):
    record = (copied / "out" / "model" / "adept_training.json").read_bytes()
    run_program("adept", "expand", "--model", "out/model", "--after", "0", "--out", "deeper", cwd=copied)
    run_program("adept", "dial", "--model", "out/model", "--alpha", "0.5", "--out", "dialed", cwd=copied)
    for name in ("deeper", "dialed"):
        assert (copied / name / "adept_training.json").read_bytes() == record
        settings = [f"model={name}", f"output_dir=on-{name}", "train.max_steps=1", "train.eval_steps=0"]
        run(copied, *settings, command="train", flags=["--continue-data"])
        state = json.loads((copied / f"on-{name}" / "checkpoint-1" / "trainer_state.json").read_text())
        assert state["loader"]["sequences"] == json.loads(record)["data"]["sequences"] + 2


def test_a_training_that_was_begun_is_refused_before_any_work_unless_it_is_to_go_on(copied):
    shutil.copytree(copied / "out" / "expanded", copied / "expanded")
    settings = ["model=expanded", "output_dir=trained"]
    run(copied, *settings, command="train")
    assert kept(run(copied, *settings, command="train")) == ["baseline", "train", "eval", "copies"], "what is finished is kept"
    before = snapshot(copied / "trained")
    for change in ("train.max_steps=6", "train.learning_rate=1e-4", "seq_len=24"):
        process = run(copied, *settings, change, "eval.max_tokens=200", command="train", check=False)
        assert process.returncode == 2, process.stderr
        assert says(process.stderr, "error: trained: ...checkpoint-4 of an earlier run...--resume...output_dir")
        assert "eval  " not in process.stderr and snapshot(copied / "trained") == before
    run(copied, *settings, "train.max_steps=6", command="train", flags=["--resume"])


@pytest.mark.parametrize("method", ["adept", "full"])
@pytest.mark.parametrize("lost", ["adept_training.json", "config.json", "*"])
def test_files_lost_from_the_result_are_made_again(copied, method, lost):
    settings = [f"method={method}", f"output_dir={method}", "train.max_steps=1", "train.eval_steps=0"]
    run(copied, *settings)
    whole = snapshot(copied / method / "model")
    for path in (copied / method / "model").glob(lost):
        path.unlink()
    assert "repeating the stage" in run(copied, *settings).stderr
    assert snapshot(copied / method / "model") == whole


def test_after_a_damaged_checkpoint_the_next_save_leaves_two_whole_ones(copied):
    out = copied / "out"
    shutil.rmtree(out / "model")
    newest = out / "checkpoint-4" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    process = run(copied, "train.save_steps=3")
    assert "checkpoint-4: skipped, because it is damaged" in process.stderr and "resuming after step 2 of 4" in process.stderr
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    shutil.rmtree(out / "model")
    assert "skipped, because" not in run(copied, "train.save_steps=3").stderr


@pytest.fixture
def sharing(tmp_path):
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "ADEPT_RESULT_CACHE": "on"}


def measured_before(process):
    return {line.split(":")[0] for line in process.stderr.splitlines() if "cached result" in line}


def test_baseline_and_probe_are_measured_once_for_all_output_folders(copied, sharing):
    def sweep(name, *settings, env=sharing):
        return run(copied, f"output_dir={name}", "train.max_steps=1", "train.eval_steps=0", *settings, env=env)

    everything = {"eval       held", "eval       more", "probe      scores"}
    first = sweep("a")
    assert measured_before(first) == set()
    second = sweep("b", "train.learning_rate=1e-4")
    assert measured_before(second) == everything
    for name in ("eval_base.json", "importance.json"):
        assert (copied / "a" / name).read_bytes() == (copied / "b" / name).read_bytes()
    assert measured_before(sweep("c", "eval.max_tokens=200", "train.learning_rate=2e-4")) == {"probe      scores"}
    assert measured_before(sweep("d", "dtype=bf16", "train.learning_rate=1e-4")) == set()
    assert measured_before(sweep("e", "probe.max_tokens=200", "train.learning_rate=3e-4")) == everything - {"probe      scores"}
    assert measured_before(sweep("f", env={**sharing, "ADEPT_RESULT_CACHE": "off"})) == set()
    config = copied / "base" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert measured_before(sweep("g", "train.learning_rate=4e-4")) == set(), "another config.json is another model"
    probe = ["probe", "--model", "base", "--data", "general.jsonl", "--seq-len", 32, "--max-tokens", 400, "--layers", 1,
             "--threads", 1, "--dtype", "fp32", "--out", "importance.json"]  # fmt: skip
    assert measured_before(run_program("adept", *probe, cwd=copied, env=sharing)) == {"probe      scores"}


def interrupted(folder, arguments, ready, env):
    process = subprocess.Popen(
        [BUILD / "adept", *map(str, arguments)], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not ready():
        time.sleep(0.001)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    return process.returncode if process.returncode is not None else process.wait(), process.communicate()[1]


def test_evaluations_and_probes_that_are_interrupted_keep_what_is_done(copied, sharing):
    text_models.write_jsonl(copied / "long.jsonl", text_models.sentences("general", 2000))
    results = copied.parent / "cache" / "adept" / "results"
    common = ["--model", "base", "--seq-len", 32, "--max-tokens", 0, "--threads", 1, "--dtype", "fp32", "--out", "out.json"]
    evaluate = ["eval", *common, "--data", "held.jsonl", "--data", "long.jsonl"]
    code, messages = interrupted(copied, evaluate, lambda: any(results.glob("*.json")), sharing)
    assert code == 130, messages
    assert "error: interrupted (SIGINT); saved 1 of 2 evaluation sets" in messages
    assert measured_before(run_program("adept", *evaluate, cwd=copied, env=sharing)) == {"eval       held"}
    whole = json.loads((copied / "out.json").read_text())
    off = {**sharing, "ADEPT_RESULT_CACHE": "off"}
    run_program("adept", *evaluate, cwd=copied, env=off)
    assert json.loads((copied / "out.json").read_text()) == whole

    probe = ["probe", *common, "--data", "long.jsonl", "--layers", 1]
    shutil.rmtree(results)
    for wait in (0.5, 1, 2, 4):  # until the signal meets the probe
        begin = time.monotonic()
        code, messages = interrupted(copied, probe, lambda: time.monotonic() > begin + wait, sharing)  # noqa: B023
        match = re.search(r"interrupted \(SIGINT\); saved (\d+) of (\d+) batches of the probe", messages)
        if match and int(match[1]) > 0:
            break
    assert code == 130 and int(match[1]) > 0, messages
    resumed = run_program("adept", *probe, cwd=copied, env=sharing)
    assert f"probe      resuming after {match[1]} of " in resumed.stderr.replace(",", "")
    whole = json.loads((copied / "out.json").read_text())
    run_program("adept", *probe, cwd=copied, env=off)
    assert json.loads((copied / "out.json").read_text()) == whole

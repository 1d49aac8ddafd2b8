"""`adept eval` and `adept probe` by several processes: the results, output and failures of one."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import text_models
from conftest import BUILD, preload, run_program, says
from dist_runs import FULL_DISK, config_of, ends_of, free_port, plain_variables, ranks_in, seen_in_stage, start_ranks, write_config
from whole_runs import make_inputs

EVAL = ["eval", "--model", "base", "--data", "held.txt", "--data", "domain.jsonl", "--txt-record", "paragraph"]
PROBE = ["probe", "--model", "base", "--data", "probe-0.jsonl", "--data", "probe-1.jsonl"]


def common(**changes):
    options = {"seq_len": 48, "batch_size": 4, "threads": 1, "out": "out.json", **changes}
    return [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]


COMMON = common()
FAR = ["--timeout", 300]  # no process may wait for it


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure")
    make_inputs(folder)
    return folder


def words_of(*arguments):
    return [str(BUILD / "adept"), *map(str, arguments)]


def call(folder, *arguments, check=True, **options):
    process = subprocess.run(words_of(*arguments), cwd=folder, capture_output=True, text=True, timeout=120, **options)
    assert not check or process.returncode == 0, process.stderr
    return process


def results_of(folder, *arguments):
    """The file and the printed table."""
    process = call(folder, *arguments)
    return json.loads((folder / "out.json").read_text()), (folder / "out.json").read_bytes(), process.stdout


def by_one_and_by(folder, arguments, several):
    expected = results_of(folder, *arguments)
    for count, shares in several:
        (folder / "out.json").unlink()
        assert results_of(folder, *arguments, "--nproc", count, *["--shard-base"] * shares) == expected, (count, shares)
    return expected[0]


ALL = [(2, False), (3, False), (2, True), (3, True)]


@pytest.mark.parametrize("arguments", [
    common(max_tokens=500), common(stride=20), [*COMMON, "--packed"], [*COMMON, "--packed", "--no-document-mask"], common(batch_size=64),
    common(dtype="bf16"),
])  # fmt: skip
def test_processes_evaluate_the_same_bits_as_one(folder, arguments):
    results = by_one_and_by(folder, [*EVAL, *arguments], ALL)
    assert results["datasets"]["held"]["perplexity"] > 1 and results["datasets"]["domain"]["documents"] > 10


def test_processes_evaluate_questions_like_one(folder):
    questions = [{"question": text, "choices": ["fever", "a heart", "nothing", text], "answer": i % 4} for i, text in
                 enumerate(text_models.sentences("general", 30))]  # fmt: skip
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    results = by_one_and_by(folder, [*EVAL[:3], "--data", "questions.jsonl", *COMMON], ALL)
    assert results["datasets"]["questions"]["documents"] == 30


METHODS = {
    "mask_out": [], "cumulative": [], "rank_aggregation": [], "fisher": [], "block_influence": [], "taylor_gate": [],
    "gain": ["--domain", "domain.jsonl"], "all": [],
}  # fmt: skip


def test_every_method_is_tried():
    offered = re.search(r"^ +--method (\S+)", run_program("adept", "probe", "--help").stdout, re.M)[1]
    assert offered.split("=")[0].split("|") == [*METHODS]


@pytest.mark.parametrize("method", METHODS)
def test_processes_probe_the_same_bits_as_one(folder, method):
    arguments = [*PROBE, *COMMON, "--method", method, "--weights", "2,1", "--layers", 2, "--max-tokens", 900, *METHODS[method]]
    results = by_one_and_by(folder, arguments, ALL)
    assert len(results["layers"]) == 3 and len(results.get("methods", [])) == 5 * (method == "all")


def test_processes_probe_until_separated_and_on_domain_text_like_one(folder):
    by_one_and_by(folder, [*PROBE, *common(batch_size=2), "--until-separated"], [(2, False), (3, True)])
    by_one_and_by(folder, [*PROBE, *COMMON, "--domain", "domain.jsonl", "--max-tokens", 500], [(2, True), (3, False)])


def test_torchrun_starts_a_measurement(folder):
    expected = results_of(folder, *EVAL, *COMMON)
    (folder / "out.json").unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    process = subprocess.run([*torchrun, *words_of(*EVAL, *COMMON, "--shard-base")], cwd=folder, capture_output=True, text=True,
                             timeout=120)
    assert process.returncode == 0, process.stderr
    assert (process.stdout, (folder / "out.json").read_bytes()) == (expected[2], expected[1])
    assert "layers are divided over 2 processes: " in process.stderr


@pytest.mark.parametrize("command", [EVAL, [*PROBE[:3], "--data", "domain.jsonl"]])
def test_only_the_first_process_writes(folder, command):
    folders = [folder, pathlib.Path(shutil.copytree(folder, folder.parent / "other"))]
    port = free_port()
    ranks = [subprocess.Popen(words_of(*command, *common(seq_len=600), "--max-tokens", 0), cwd=place, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, env=plain_variables(rank, port))
             for rank, place in enumerate(folders)]  # fmt: skip
    output = [process.communicate(timeout=60) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], output
    assert output[0][0] and "2 processes measure together, 2 on this machine" in output[0][1]
    assert output[0][1].count("exceeds max_position_embeddings") == 1
    assert output[1] == ("", "")
    assert (folders[0] / "out.json").exists() and not (folders[1] / "out.json").exists()


def cached(folder):
    return {**os.environ, "ADEPT_RESULT_CACHE": "on", "XDG_CACHE_HOME": str(folder / "cache")}


@pytest.mark.parametrize("command", [EVAL, PROBE])
def test_processes_share_tokens_and_results_with_one(folder, command):
    first = call(folder, *command, *COMMON, "--nproc", 2, env=cached(folder))
    assert len(list((folder / "cache" / "adept" / "tokens").iterdir())) == 2, "a store for each source"
    out = (folder / "out.json").read_bytes()
    again = call(folder, *command, *COMMON, env=cached(folder))
    assert says(again.stderr, "cached result from") and (folder / "out.json").read_bytes() == out and again.stdout == first.stdout
    again = call(folder, *command, *COMMON, "--nproc", 3, "--shard-base", env=cached(folder))
    assert says(again.stderr, "cached result from") and (folder / "out.json").read_bytes() == out and again.stdout == first.stdout


def test_machines_divide_the_sources_to_tokenize(folder):
    port = free_port()
    machine = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    ranks = [subprocess.Popen(words_of(*EVAL, *COMMON), cwd=folder, env={**cached(folder), **plain_variables(rank, port, **machine),
                                                                         "XDG_CACHE_HOME": str(folder / "cache"),
                                                                         "ADEPT_RESULT_CACHE": "on"},
                              stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    assert [line.split()[1] for line in errors[0].splitlines() if line.startswith("tokenize ")] == ["held"]


def long_text(folder):
    text_models.write_jsonl(folder / "long.jsonl", text_models.sentences("general", 20_000, seed=10))
    return ["--data", "long.jsonl", "--max-tokens", 0]


def seen_measuring(folder, stage, signalled):
    """Starts two processes on a long text, and calls `signalled` while they measure it. The exit code and the messages."""
    command = {"eval": EVAL, "probe": PROBE[:3]}[stage]
    words = words_of(*command, *long_text(folder), *COMMON, "--nproc", 2, "--timeout", 3)
    return seen_in_stage(folder, words, stage, "long", signalled)


def nothing_is_left(folder):
    return not ranks_in(folder) and not list(folder.glob("out.json*"))


@pytest.mark.parametrize("stage", ["eval", "probe"])
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_and_is_named(folder, stage, killed):
    code, errors = seen_measuring(folder, stage, lambda _: os.kill(ranks_in(folder)[killed], signal.SIGKILL))
    assert code == 128 + signal.SIGKILL
    assert len(re.findall(rf"(?:\[rank 1\] )?error: rank {killed} was killed by signal 9 \(Killed\)$", errors, re.M)) == 2, errors
    assert not ranks_in(folder) and not (folder / "out.json").exists()


@pytest.mark.parametrize("stage", ["eval", "probe"])
def test_a_stopped_process_ends_the_others_within_the_time_out(folder, stage):
    code, errors = seen_measuring(folder, stage, lambda _: os.kill(ranks_in(folder)[1], signal.SIGSTOP))
    assert code == 1 and says(errors, "error: rank 1 gave no sign of life for 3 s"), errors
    assert nothing_is_left(folder)


@pytest.mark.parametrize("stage", ["eval", "probe"])
def test_a_signal_ends_all(folder, stage):
    code, errors = seen_measuring(folder, stage, lambda process: process.send_signal(signal.SIGTERM))
    assert code == 143, errors
    ended = r"error: terminated \(SIGTERM\); saved \d+ of"
    assert len(re.findall(ended, errors)) == 2 and re.search(r"\[rank 1\] " + ended, errors), errors
    assert nothing_is_left(folder)


def test_a_signalled_probe_continues_with_another_number_of_processes(folder, monkeypatch):
    for name, value in cached(folder).items():
        monkeypatch.setenv(name, value)
    code, errors = seen_measuring(folder, "probe", lambda process: process.send_signal(signal.SIGTERM))
    assert code == 143 and says(errors, "saved ... batches of the probe; the same command continues from there")
    assert says(call(folder, *PROBE[:3], *long_text(folder), *COMMON).stderr, "probe      resuming after")
    continued = (folder / "out.json").read_bytes()
    monkeypatch.setenv("ADEPT_RESULT_CACHE", "off")
    call(folder, *PROBE[:3], *long_text(folder), *COMMON)
    assert (folder / "out.json").read_bytes() == continued


DIFFERENT = {
    "--seq-len": (["--seq-len", "24"], "--seq-len: rank 0: 48; rank 1: 24"),
    "--max-tokens": (["--max-tokens", "99"], "--max-tokens: rank 0: 0; rank 1: 99"),
    "--shard-base": (["--shard-base"], "--shard-base: rank 0: not given; rank 1: true"),
    "--packed": (["--packed"], "--packed: rank 0: not given; rank 1: true"),
    "--data": (["--data", "probe-0.jsonl"], "--data: rank 0: held.txt domain.jsonl; rank 1: held.txt domain.jsonl probe-0.jsonl"),
    "--dtype": (["--dtype", "bf16"], "--dtype: rank 0: fp32; rank 1: bf16"),
    "--out": (["--out", "other.json"], "--out: rank 0: out.json; rank 1: other.json"),
}


@pytest.mark.parametrize("option", DIFFERENT)
def test_different_arguments_end_all_before_anything_is_measured(folder, option):
    changed, difference = DIFFERENT[option]
    same = [*EVAL, "--dtype", "fp32", *COMMON, "--max-tokens", 0, *FAR]
    without = [word for at, word in enumerate(same) if option == "--data" or option not in (word, same[at - 1])]
    errors, codes = ends_of(start_ranks(folder, [list(map(str, same)), [*map(str, without), *changed]]))
    assert codes == [1, 1], errors
    for text in errors:
        assert says(text, "option " + difference) and says(text, "Start all of them with the same program, arguments, model and texts.")
        assert len(re.findall(r": rank \d: ", text)) == 1, "only one thing differs"
    assert not list(folder.glob("o*.json"))


def test_a_difference_that_does_not_matter_is_none(folder):
    port = free_port()
    words = [[*EVAL, *COMMON], [*EVAL, *common(threads=2), "--quiet", "--stride", 0]]
    errors, codes = ends_of(start_ranks(folder, [list(map(str, arguments)) for arguments in words], port))
    assert codes == [0, 0], errors


@pytest.mark.parametrize("other", [["run", "run.yaml"], list(map(str, [*PROBE, *COMMON, *FAR]))])
def test_different_commands_end_all(folder, other):
    write_config(folder, config_of(2, dist={"timeout": 300}))
    errors, codes = ends_of(start_ranks(folder, [list(map(str, [*EVAL, *COMMON, *FAR])), other]))
    assert codes == [1, 1] and all(says(text, f"command: rank 0: adept eval; rank 1: adept {other[0]}") for text in errors), errors
    assert not (folder / "out.json").exists() and not (folder / "out").exists()


@pytest.mark.parametrize("words, message", [
    ([*EVAL, *COMMON, "--stride", 4000], "--stride 4000"),
    ([*EVAL, *COMMON, "--no-such-option"], "--no-such-option"),
    ([*EVAL, *COMMON, "--data", "none.jsonl"], 'source "none": its text cannot be read'),
    ([*EVAL, *COMMON, "--nproc", 2], "--nproc: found 2, but this process is already one of 2"),
    ([*PROBE, *COMMON, "--method", "gain"], "--method gain without --domain"),
    ([*PROBE, *COMMON, "--weights", "1,x"], "--weights 1,x: "),
])  # fmt: skip
def test_bad_arguments_of_one_process_end_all_at_once(folder, words, message):
    same = list(map(str, [*EVAL, *COMMON, *FAR]))
    errors, codes = ends_of(start_ranks(folder, [same, [*map(str, words), *map(str, FAR)]]))
    assert codes == [2, 2], errors
    assert says(errors[1], f"[rank 1] error: ...{message}") and says(errors[0], f"error: rank 1 ended: ...{message}")
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize("command", [EVAL, PROBE])
def test_bad_options_are_refused(folder, command):
    def refused(*options, **changes):
        process = call(folder, *command, *COMMON, *options, check=False, **changes)
        assert process.returncode == 2 and not (folder / "out.json").exists()
        return process.stderr

    assert says(refused("--shard-base"), "--shard-base: found in a command of one process; expected several")
    assert says(refused("--nproc", 0), '--nproc: found "0"; expected a whole number from 1')
    assert says(refused("--timeout", 0, "--nproc", 2), '--timeout: found "0"; expected a whole number from 1')
    assert refused("--data", "a b=held.txt", "--nproc", 2).count("error: ") == 1, "before processes start"
    for place in ("-", "/dev/stdin", "@/dev/stdin"):
        errors = refused("--data", place, "--nproc", 2, stdin=subprocess.DEVNULL)
        assert says(errors, "/dev/stdin: is read by each of the 2 processes...expected the path of a file"), errors


def test_what_cannot_be_written_ends_all(folder):
    (folder / "out.json").mkdir()
    process = call(folder, *EVAL, *COMMON, "--nproc", 2, check=False)
    assert process.returncode != 0 and says(process.stderr, "\nerror: out.json") or process.stderr.startswith("error: out.json")
    assert says(process.stderr, "[rank 1] error: rank 0 ended: out.json")


def test_a_full_disk_ends_all(folder):
    environment = preload(folder, FULL_DISK.replace("size > 4096", "size > 100"))
    (folder / "full").touch()
    process = call(folder, *PROBE, *COMMON, "--nproc", 2, check=False, env=environment)
    assert process.returncode == 1
    assert says(process.stderr, "error: out.json...No space left on device")
    assert says(process.stderr, "[rank 1] error: rank 0 ended: out.json...No space left on device")
    assert not list(folder.glob("out.json*"))


def test_processes_with_other_text_are_named(folder):
    other = pathlib.Path(shutil.copytree(folder, folder.parent / "other"))
    (other / "held.txt").write_text("Another text, which only this machine has.\n")
    port = free_port()
    ranks = [subprocess.Popen(words_of(*EVAL, *COMMON), cwd=place, env=plain_variables(rank, port), stderr=subprocess.PIPE, text=True)
             for rank, place in enumerate((folder, other))]
    errors, codes = ends_of(ranks)
    assert codes == [1, 1]
    for text in errors:
        assert says(text, "tokens of --data (held): rank 0: xxh3:...; rank 1: xxh3:") and text.count("tokens of") == 1, text


def test_processes_with_other_models_are_named(folder):
    other = pathlib.Path(shutil.copytree(folder, folder.parent / "other"))
    shutil.rmtree(other / "base")
    text_models.save("llama_tied", other / "base", num_hidden_layers=5)
    port = free_port()
    ranks = [subprocess.Popen(words_of(*PROBE, *COMMON), cwd=place, env=plain_variables(rank, port), stderr=subprocess.PIPE, text=True)
             for rank, place in enumerate((folder, other))]
    errors, codes = ends_of(ranks)
    assert codes == [1, 1]
    assert all(says(text, "measurement: model/...rank 0: ...; rank 1: ") for text in errors), errors

"""What the benchmarks refuse to measure. Nothing is timed here."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest
import text_models
import torch
from conftest import BUILD, ROOT, reads, run_program, says

needs_bench = pytest.mark.skipif(not (BUILD / "adept_bench").is_file(), reason="this build has no adept_bench (ADEPT_BUILD_BENCH)")


@pytest.fixture(scope="module")
def expanded(tmp_path_factory):
    """A folder with an expanded model and token ids of one row."""
    folder = tmp_path_factory.mktemp("bench")
    text_models.save("llama_tied", folder / "base")
    run_program("adept", "expand", "--model", "base", "--out", "expanded", "--after", "1", cwd=folder)
    (folder / "ids.json").write_text(json.dumps([list(range(3, 19))]))
    return folder


def bench(folder, *arguments, turns=0):
    """The process, and its answers as JSON."""
    ids = () if "--ids" in arguments else ("--ids", "ids.json")
    process = run_program("adept_bench", "--model", "expanded", *ids, *arguments, cwd=folder, check=False,
                          input="repeat\n" * turns + "end\n")  # fmt: skip
    return process, [json.loads(line) for line in process.stdout.splitlines()]


@needs_bench
@pytest.mark.parametrize("work", ["forward", "full", "probe"])
def test_an_activation_cache_is_for_steps_of_copies(expanded, work):
    process, answers = bench(expanded, "--work", work, "--cached", turns=2)
    assert process.returncode == 2 and answers == []
    assert reads(process.stderr, f"adept_bench: --cached: found --work {work}; expected --work step...\n")


@needs_bench
def test_a_first_epoch_is_not_told_as_a_second(expanded):
    process, answers = bench(expanded, "--work", "step", "--cached", turns=1)
    assert process.returncode == 1 and len(answers) == 2  # ready, and the turn: no end
    assert reads(process.stderr, "adept_bench: ...nothing ...activation cache...second epoch...\n")
    process, cached = bench(expanded, "--work", "step", "--cached", turns=3)
    assert process.returncode == 0 and process.stderr == ""
    assert cached[-1]["peak_bytes"] > 0
    _, computed = bench(expanded, "--work", "step", turns=3)
    assert [answer["loss"] for answer in cached[1:-1]] == [answer["loss"] for answer in computed[1:-1]]


@needs_bench
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["step-fp32", "setp-*"], "no row setp-*; ...forward-fp32, step-fp32, ..."),
        (["--batch", "4"], "argument --batch: found 4; expected two numbers..."),
        (["--batch", "4x-5"], "argument --batch: found 4x-5; expected two numbers..."),
        (["--batch", "1x512"], "argument --batch: found 1x512; expected two numbers..."),
        (["--repeats", "0"], "--repeats and --threads ...at least 1"),
        (["--threads", "0"], "--repeats and --threads ...at least 1"),
    ],
)
def test_what_it_cannot_measure_is_refused_before_anything_is_prepared(arguments, message):
    process = subprocess.run([ROOT / "bench" / "run", *arguments], env={**os.environ, "ADEPT_PYTHON": sys.executable},
                             capture_output=True, text=True)  # fmt: skip
    assert process.returncode == 2 and process.stdout == ""
    assert reads(process.stderr.splitlines()[-1], f"bench/run: error: {message}")


def test_a_python_without_the_peers_is_refused():
    process = subprocess.run([sys.executable, "-E", "-S", ROOT / "bench" / "compare.py", "forward-fp32"],
                             capture_output=True, text=True)  # fmt: skip
    assert process.returncode == 1 and process.stdout == ""
    assert says(process.stderr, f"bench/run: {sys.executable} has no tokenizers and no torch and no transformers; ...scripts/setup")


def module_of_bench(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


@pytest.fixture
def compare(monkeypatch):
    """The module behind bench/run."""
    return module_of_bench("compare", monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peer_adds_up_updates_that_bf16_cannot_hold(dtype, monkeypatch):
    peer = module_of_bench("peer_step", monkeypatch)
    parameters = [torch.nn.Parameter(torch.ones(3, dtype=dtype)), torch.nn.Parameter(torch.ones(2, 2, dtype=dtype))]
    optimizer, steps = peer.MasterAdamW(parameters), 100
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        assert all(parameter.grad is None for parameter in parameters)
    for parameter in parameters:  # a constant gradient moves it by the rate, a fortieth of the distance to the next number of bf16
        moved = torch.full(parameter.shape, 1 - steps * peer.LEARNING_RATE).to(dtype)
        torch.testing.assert_close(parameter.detach(), moved, rtol=1e-5, atol=0)


def test_what_cannot_be_fetched_is_said_by_its_file(compare):
    with pytest.raises(compare.BenchError, match=r"^\.cache/text/nothing\.cor could not be fetched$"):
        compare.fetch("nothing", compare.CACHE / "text" / "nothing.cor")


def test_a_side_that_is_killed_is_told(compare):
    killed = r"^peer was killed; the two sides need their memory at the same time$"
    with pytest.raises(compare.BenchError, match=killed):
        compare.Side("peer", ["sh", "-c", "kill -9 $$"])
    side = compare.Side("peer", ["sh", "-c", "echo '{}'; kill -9 $$"])
    side.process.wait()  # while it is the other side's turn
    with pytest.raises(compare.BenchError, match=killed):
        side.repeat()


def test_a_text_that_is_too_short_for_the_batch_is_told(compare, expanded, monkeypatch, tmp_path):
    (tmp_path / "text.cor").write_text("A few words.")
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    monkeypatch.setattr(compare, "CACHE", tmp_path)
    monkeypatch.setattr(compare, "TEXT", tmp_path / "text.cor")
    monkeypatch.setattr(compare, "MODEL", expanded / "base")
    with pytest.raises(compare.BenchError, match=r"^--batch: 4 x 512 tokens are more than the \d+ of text\.cor$"):
        compare.write_ids(None, compare.SMOLLM2, 4, 512)
    assert not (tmp_path / "bench").exists()


@needs_bench
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_before_anything_is_prepared():
    process = subprocess.run([ROOT / "bench" / "run", "forward-fp32", "--device", "cuda"],
                             env={**os.environ, "ADEPT_PYTHON": sys.executable}, capture_output=True, text=True)  # fmt: skip
    assert process.returncode == 1 and process.stdout == ""
    assert reads(process.stderr, "\nbench/run: --device cuda: ...torch ...no CUDA ...\n")


SIDE = {"tokens_per_s": {"min": 1, "median": 2, "max": 3}, "peak_bytes": 1e9, "load_seconds": 1, "versions": {"x": "1"}}
RESULT = {"row": "a row", "model": "a model", "dtype": "fp32", "model_bytes": 1e6, "scaling": False, "ratio": 1,
          "memory_ratio": 1, "peer": SIDE, "adept": SIDE}  # fmt: skip


@needs_bench
def test_the_rows_after_one_that_fails_are_measured(compare, monkeypatch, tmp_path, capsys):
    def measure(row, *_):
        if row.work == "forward":
            raise compare.BenchError("this row cannot be")
        return RESULT

    monkeypatch.setattr(compare, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["run", "forward-fp32", "step-fp32", "--json", str(tmp_path / "results.json")])
    assert compare.main() == 1
    out, err = capsys.readouterr()
    assert "forward + loss, fp32: failed\n" in out and "a row  " in out
    assert err == "\nbench/run: this row cannot be\n"
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows == [{"row": "forward + loss, fp32", "model": "SmolLM2-135M", "error": "this row cannot be"}, RESULT]


@needs_bench
def test_an_interrupted_run_shows_what_it_has(compare, monkeypatch, tmp_path, capsys):
    def measure(row, *_):
        if row.work == "forward":
            raise KeyboardInterrupt
        return RESULT

    monkeypatch.setattr(compare, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["run", "step-fp32", "forward-fp32", "--json", str(tmp_path / "results.json")])
    assert compare.main() == 130
    out, err = capsys.readouterr()
    assert err == "\nbench/run: interrupted\n" and f"saved in {tmp_path / 'results.json'} after each row" in out
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 1


@needs_bench
def test_results_that_could_not_be_saved_are_not_measured(tmp_path):
    process = subprocess.run([ROOT / "bench" / "run", "forward-fp32", "--json", tmp_path],
                             env={**os.environ, "ADEPT_PYTHON": sys.executable}, capture_output=True, text=True)  # fmt: skip
    assert process.returncode == 1 and process.stdout == ""
    assert reads(process.stderr, f"\nbench/run: {tmp_path} ...Is a directory; ...--json\n")
    process = subprocess.run([ROOT / "bench" / "run", "forward-fp32", "--json", tmp_path / "no" / "file.json"],
                             env={**os.environ, "ADEPT_PYTHON": sys.executable}, capture_output=True, text=True)  # fmt: skip
    assert process.returncode == 1 and not (tmp_path / "no").exists()


@needs_bench
def test_a_program_that_does_not_start_is_told(tmp_path):
    program = tmp_path / "adept_bench"
    program.write_text("#!/bin/sh\necho 'libtorch is gone' >&2\nexit 127\n")
    program.chmod(0o755)
    process = subprocess.run([ROOT / "bench" / "run", "forward-fp32"], capture_output=True, text=True,
                             env={**os.environ, "ADEPT_PYTHON": sys.executable, "ADEPT_BUILD": str(tmp_path)})  # fmt: skip
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr == "\nbench/run: adept_bench --cores ended with exit code 127:\nlibtorch is gone\n\n"


@needs_bench
def test_only_known_lines_are_taken(expanded):
    process = run_program("adept_bench", "--model", "expanded", "--ids", "ids.json", cwd=expanded, check=False, input="repaet\n")
    assert process.returncode == 1
    assert process.stderr == "adept_bench: stdin: found repaet; expected repeat or end\n"


@needs_bench
def test_ids_must_be_rows_of_numbers(expanded):
    (expanded / "wrong.json").write_text('{"a": 1}')
    process, _ = bench(expanded, "--ids", "wrong.json", "--work", "step")
    assert process.returncode == 1
    assert reads(process.stderr, "adept_bench: wrong.json: expected ...rows of token ids\n")


@needs_bench
@pytest.mark.parametrize("work", ["forward", "probe"])
def test_only_steps_recompute(expanded, work):
    process, _ = bench(expanded, "--work", work, "--activation-checkpointing", "full")
    assert process.returncode == 2
    assert reads(process.stderr, f"adept_bench: --activation-checkpointing: found --work {work}; expected --work step or full...\n")


@pytest.mark.skipif(not (BUILD / "adept_ops_bench").is_file(), reason="this build has no adept_ops_bench (ADEPT_BUILD_BENCH)")
def test_the_cases_of_the_tests_are_timed_by_name(tmp_path):
    timed = run_program("adept_ops_bench", "--cases", "RmsNorm_2x1x*", "--repeats", "1", cwd=tmp_path)
    rows = [line.split() for line in timed.stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [[f"RmsNorm_2x1x72_epsSmall{gain}", dtype, step] for gain in ("", "_wide", "_onePlus")
                                         for dtype in ("fp32", "bf16") for step in ("forward", "backward")]  # fmt: skip
    unknown = run_program("adept_ops_bench", "--cases", "Norm", cwd=tmp_path, check=False)
    assert unknown.returncode == 2
    assert reads(unknown.stderr, "adept_ops_bench: --cases: found no case ...\"Norm\"; expected a pattern ...'Attention*'...\n")


@needs_bench
def test_wrong_options_are_usage_errors(expanded):
    process, answers = bench(expanded, "--work", "step", "--dtype", "fp8")
    assert process.returncode == 2 and answers == []
    assert process.stderr.startswith("--dtype: fp8 not in {")
    if not torch.cuda.is_available():
        process, answers = bench(expanded, "--work", "step", "--device", "cuda")
        assert process.returncode == 2 and answers == []
        assert reads(process.stderr, "adept_bench: --device: found cuda...torch ...no CUDA ...; expected cpu.\n")


def test_tokenizers_take_turns_on_the_same_text_and_must_agree(monkeypatch, tmp_path, capsys):
    bench = module_of_bench("tokenizer", monkeypatch)
    (tmp_path / "text.jsonl").write_text(json.dumps({"a": "the river", "b": "it's 2024"}) + "\n" + json.dumps({"a": "and\n\nthe end"}) + "\n")
    monkeypatch.setattr(bench, "WORK", tmp_path)
    monkeypatch.setattr(bench, "VOCABULARY", text_models.save("llama_tied", tmp_path / "base") / "tokenizer.json")
    monkeypatch.setattr(bench, "PACKAGES", ("tokenizers", "no such package"))
    monkeypatch.setattr(bench, "install", lambda: sys.executable)
    arguments = ["--text", str(tmp_path / "text.jsonl"), "--repeats", "2"]
    assert bench.main(arguments) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split("  ")[0].split(" adept")[0].strip() for row in rows] == list(bench.PATTERNS)
    for row in rows:
        assert re.search(r"adept: \d+\.\d \(\d+\.\d, \d+\.\d\)  adept, 2 threads: \d+\.\d .*  tokenizers: \d", row), row
        assert "different" not in row and "package" not in row
    monkeypatch.setattr(bench, "PEER", bench.PEER.replace("sum(map(len, ids))", "1"))
    bench.main(arguments)
    assert "different numbers of tokens: {'adept': " in capsys.readouterr().out


def test_stores_are_built_on_one_and_more_cores_in_turns_and_must_be_equal(monkeypatch, tmp_path, capsys):
    bench = module_of_bench("store", monkeypatch)
    monkeypatch.setattr(bench, "WORK", tmp_path / "store")
    monkeypatch.setattr(bench, "MODEL", text_models.save("llama_tied", tmp_path / "base"))
    text_models.write_jsonl(tmp_path / "text.jsonl", text_models.sentences("domain", 20))
    assert bench.main(["--text", str(tmp_path / "text.jsonl"), "--repeats", "2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "text.jsonl, 0.0 MB of text, 2 passes each" in rows[0]
    assert [re.match(r"cores (\d)  \d+\.\d \(\d+\.\d, \d+\.\d\)$", row)[1] for row in rows[1:3]] == ["1", "2"]
    assert [re.match(r"batches, (\w+): \d+\.\d million tokens/s \(\d+\.\d, \d+\.\d\)$", row)[1] for row in rows[3:]] == ["concat", "best_fit"]
    numbers = iter(range(10))
    one_pass = bench.one_pass

    def another_store(*arguments):
        seconds, store = one_pass(*arguments)
        return seconds, {**store, "fingerprint": str(next(numbers))}

    monkeypatch.setattr(bench, "one_pass", another_store)
    assert bench.main(["--text", str(tmp_path / "text.jsonl"), "--repeats", "1"]) == 1
    assert "the stores differ" in capsys.readouterr().out

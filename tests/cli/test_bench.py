"""What the benchmarks refuse to measure. Nothing is timed here."""

import json
import os
import subprocess
import sys

import pytest
import text_models
from conftest import BUILD, ROOT, run_program

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
    process = run_program("adept_bench", "--model", "expanded", "--ids", "ids.json", *arguments, cwd=folder, check=False,
                          input="repeat\n" * turns + "end\n")  # fmt: skip
    return process, [json.loads(line) for line in process.stdout.splitlines()]


@needs_bench
@pytest.mark.parametrize("work", ["forward", "full", "probe"])
def test_an_activation_cache_is_for_steps_of_copies(expanded, work):
    process, answers = bench(expanded, "--work", work, "--cached", turns=2)
    assert process.returncode == 1 and answers == []
    assert process.stderr == f"adept_bench: --cached: expected --work step, found {work}.\n"


@needs_bench
def test_a_first_epoch_is_not_told_as_a_second(expanded):
    process, answers = bench(expanded, "--work", "step", "--cached", turns=1)
    assert process.returncode == 1 and len(answers) == 2  # ready, and the turn: no end
    assert process.stderr == "adept_bench: nothing was read from the activation cache; the second epoch was not measured\n"
    process, cached = bench(expanded, "--work", "step", "--cached", turns=3)
    assert process.returncode == 0 and process.stderr == ""
    assert cached[-1]["peak_rss_bytes"] > 0
    _, computed = bench(expanded, "--work", "step", turns=3)
    assert [answer["loss"] for answer in cached[1:-1]] == [answer["loss"] for answer in computed[1:-1]]


def test_an_unknown_row_is_refused_with_those_that_there_are():
    process = subprocess.run([ROOT / "bench" / "run", "step-fp32", "setp-*"], env={**os.environ, "ADEPT_PYTHON": sys.executable},
                             capture_output=True, text=True)  # fmt: skip
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.splitlines()[-1].startswith("compare.py: error: no row setp-*; known: forward-fp32, step-fp32, ")

"""tools/check_gpu without a GPU: its dry run goes through every check, and a report tells failures from what is not possible."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import BUILD, ROOT, says

TOOL = [sys.executable, ROOT / "tools" / "check_gpu"]
needs_bench = pytest.mark.skipif(not (BUILD / "adept_bench").is_file(), reason="this build has no adept_bench (ADEPT_BUILD_BENCH)")


def check(folder, *arguments, **variables):
    process = subprocess.run([*TOOL, "--out", folder, *arguments], env={**os.environ, **variables}, capture_output=True, text=True)
    path = folder / "report.json"
    return process, json.loads(path.read_text()) if path.exists() else None


@needs_bench
def test_the_dry_run_goes_through_every_check(tmp_path):
    process, report = check(tmp_path, "--dry-run")
    assert process.returncode == 0, process.stdout + process.stderr
    rows = report["rows"]
    assert {row["check"] for row in rows} == {"parity", "resume", "ranks", "speed"}
    assert all(row["status"] == "ran" for row in rows), rows
    assert {row["name"] for row in rows if row["check"] == "parity"} >= {"llama_biases, rows", "gemma2, documents"}
    assert [row["name"] for row in rows if row["check"] == "ranks"] == ["adept", "adept, dist.shard_base", "lora", "full"]
    (speed,) = (row for row in rows if row["check"] == "speed")
    for name in ("tokens_per_s_adept", "tokens_per_s_peer", "peak_gb_adept", "sol_adept", "sol_peer"):
        assert float(speed[name]) > 0, name
    assert "mfu_adept" not in speed and "MFU" in speed["why"]
    assert report["device"] == "cpu" and report["dry_run"] and "torch" in report["program"]
    text = (tmp_path / "report.txt").read_text()
    assert all(row["name"] in text for row in rows)


@needs_bench
def test_a_limit_that_is_over_and_a_program_that_fails_are_told_apart(tmp_path):
    process, report = check(tmp_path, "--dry-run", "--limit", "1")
    assert process.returncode == 0
    assert [(row["check"], row["status"]) for row in report["rows"]] == [
        (name, "not possible") for name in ("parity", "resume", "ranks", "speed")]  # fmt: skip
    for name in ("adept", "adept_bench"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'libtorch is gone' >&2\nexit 127\n")
        (tmp_path / name).chmod(0o755)
    process, report = check(tmp_path, "--dry-run", ADEPT_BUILD=str(tmp_path))
    assert process.returncode == 1
    rows = {row["check"]: row for row in report["rows"]}
    assert all(row["status"] == "FAILED" for row in report["rows"])
    assert says(rows["resume"]["why"], "libtorch is gone") and says(rows["ranks"]["why"], "libtorch is gone")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    process, report = check(tmp_path)
    assert process.returncode == 3 and report is None
    assert says(process.stderr, "check_gpu: this torch has no CUDA support or finds no GPU; --dry-run ")

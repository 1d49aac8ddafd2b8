"""tools/soak_data.py on a small corpus: it holds, cleans up, and can fail."""

import argparse
import json
import sys

import pytest
from conftest import BUILD, ROOT

sys.path.insert(0, str(ROOT / "tools"))
import soak_data  # noqa: E402

def test_a_small_soak_holds(real_text, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADEPT_BUILD", str(BUILD))
    folders = ["--text", real_text or tmp_path, "--work", tmp_path / "work", "--report", tmp_path / "report.json"]
    code = soak_data.main(["--size", "20MB", *map(str, folders)])
    shown = capsys.readouterr().out
    assert code == 0, shown
    report = json.loads((tmp_path / "report.json").read_text())
    parts = {part["part"]: part for part in report["parts"]}
    assert list(parts) == ["corpus", "tokenize", "tokenize, killed", "train", "train, killed"] and report["problems"] == []
    assert len(parts["tokenize, killed"]["kills"]) == 10 and len(parts["train, killed"]["kills"]) == 2
    assert report["text_bytes"] >= 20e6 and parts["tokenize"]["mb_per_second"] > 0 and parts["train"]["RssAnon_mb"] > 0
    assert all(name in shown for name in parts) and report["store"]["tokens"] > report["store"]["documents"] > 0
    assert not (tmp_path / "work").exists()


def test_a_soak_tells_what_differs(tmp_path, capsys):
    options = argparse.Namespace(work=tmp_path / "work", seed=0, report=tmp_path / "report.json")
    failed = soak_data.Soak(options)
    failed.size = 0
    failed.check_peak("tokenize", {"VmHWM": 900 * 10**6, "RssAnon": 5}, {"VmHWM": 800 * 10**6, "RssAnon": 5})
    failed.problems += soak_data.differences("losses", {(1, "loss"): "2.5", (2, "loss"): "2.5"}, {(1, "loss"): "2.5", (2, "loss"): "2.25"})
    failed.problems += soak_data.differences("weights", {"a": 1}, {"a": 1})
    assert failed.end() == 1
    assert failed.problems == ["tokenize: VmHWM is 900 MB; expected at most 800 MB",
                               "losses: 1 differ: (2, 'loss'): 2.5, expected 2.25"]  # fmt: skip
    assert json.loads((tmp_path / "report.json").read_text())["problems"] == failed.problems
    assert capsys.readouterr().out.count("FAILED: ") == 2


@pytest.mark.parametrize("arguments, message", [(["--size", "20"], 'found "20"; expected a size such as 20MB'),
                                                (["--work", str(ROOT)], "exists; expected a path that does not")])  # fmt: skip
def test_wrong_arguments_are_refused_before_anything_is_made(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        soak_data.main(arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err

"""Documents that repeat, and held-out text that is in the training text."""

import json
import os

import pytest
import text_models
from conftest import run_program

SHARED = "the river is cold and the patient walks to the river and the patient is cold and walks again to the river"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hygiene")
    text_models.save("llama_tied", folder / "base")
    domain = text_models.sentences("domain", 30)
    text_models.write_jsonl(folder / "domain.jsonl", [*domain, domain[3], f"first {SHARED}", domain[5]])
    text_models.write_jsonl(folder / "replay.jsonl", [domain[7], *text_models.sentences("general", 20)])
    text_models.write_jsonl(folder / "held.jsonl", [*text_models.sentences("general", 5, seed=9), f"other {SHARED}"])
    return folder


def run(folder, out, *arguments, check=True, **data):
    config = dict(model="base", output_dir=str(out), threads=1, dtype="fp32", seq_len=32, method="full", unit_lr={"policy": "uniform"},
                  data={"train": [{"name": "domain", "path": "domain.jsonl"}], "replay": [{"name": "replay", "path": "replay.jsonl"}],
                        "eval": [{"name": "held", "path": "held.jsonl"}], **data}, train={"max_steps": 3, "replay_ratio": 0.3})  # fmt: skip
    path = out.parent / f"{out.name}.yaml"
    path.write_text(json.dumps(config))
    return run_program("adept", "run", path, *arguments, cwd=folder, check=check)


def report(out):
    return json.loads((out / "contamination.json").read_text())


def test_held_out_text_in_the_training_text_is_reported_with_examples(texts, tmp_path):
    process = run(texts, tmp_path / "run")
    assert "data.eval (held): " in process.stderr and "data.drop_contaminated: true" in process.stderr
    held = report(tmp_path / "run")["eval"]["held"]
    assert held["documents"] == 6 and held["contaminated_documents"] >= 1 and 0 < held["shared_ngrams"] < held["ngrams"]
    found = [example for example in held["examples"] if example["document"] == 5]
    assert found and found[0]["text"].strip() in SHARED and found[0]["train_name"] == "domain"
    domain = report(tmp_path / "run")["train"]["domain"]
    assert domain["contaminated_documents"] >= 1 and domain["excluded_documents"] == 0


def test_documents_are_left_out_on_request(texts, tmp_path):
    run(texts, tmp_path / "all")
    both = run(texts, tmp_path / "fewer", deduplicate=True, drop_contaminated=True)
    before, after = report(tmp_path / "all")["train"], report(tmp_path / "fewer")["train"]
    assert after["domain"]["repeated_documents"] == 2 and after["replay"]["repeated_documents"] == 1
    assert before["domain"]["repeated_documents"] == 0  # it was not asked for
    excluded = after["domain"]["excluded_documents"]
    assert excluded == after["domain"]["contaminated_documents"] + 2
    line = f"domain: {excluded} of 33 documents are left out: 2 repeat an earlier one, {excluded - 2} share text with data.eval\n"
    assert line in both.stderr, "none does both"
    row = next(line for line in both.stderr.splitlines() if line.startswith("domain ") and "%" in line)
    assert row.split()[1] == str(33 - excluded)
    again = run(texts, tmp_path / "fewer", deduplicate=True, drop_contaminated=True)
    assert "train" in [line.split()[0] for line in again.stderr.splitlines() if line.endswith("unchanged, kept")]


def test_documents_that_repeat_and_are_held_out_are_counted_once(texts, tmp_path):
    copies = [f"first {SHARED}", f"first {SHARED}", *text_models.sentences("domain", 5)]
    text_models.write_jsonl(tmp_path / "copies.jsonl", copies)
    sources = [{"name": "copies", "path": str(tmp_path / "copies.jsonl")}]
    process = run(texts, tmp_path / "run", train=sources, deduplicate=True, drop_contaminated=True)
    line = "copies: 2 of 7 documents are left out: 1 repeat an earlier one, 2 share text with data.eval; 1 do both\n"
    assert line in process.stderr


def test_the_first_token_of_what_attends_only_to_itself_is_marked(texts, tmp_path):
    """It has no context, so it is not predicted: of each document, or without the mask of each sequence."""
    from transformers import AutoTokenizer

    documents = ["river is cold", "patient walks again"]
    text_models.write_jsonl(tmp_path / "two.jsonl", documents)
    tokenizer = AutoTokenizer.from_pretrained(texts / "base")
    marked = []
    for document in documents:
        first = tokenizer.decode(tokenizer(document)["input_ids"][:1])
        marked.append(f"«{first}»{document[len(first):]}")
    for mask, count in ((True, 2), (False, 1)):
        config = dict(model="base", output_dir=str(tmp_path / "none"), method="full", unit_lr={"policy": "uniform"}, seq_len=64,
                      data={"train": [{"name": "two", "path": str(tmp_path / "two.jsonl")}], "document_mask": mask})  # fmt: skip
        path = tmp_path / "run.yaml"
        path.write_text(json.dumps(config))
        shown = run_program("adept", "data", "inspect", path, "--document-bytes", 0, cwd=texts).stdout
        text = shown.partition("first step")[2].partition("\n")[2]
        assert sum(text.count(document) for document in marked) == count == text.count("«")


def test_text_that_is_given_by_two_sources_is_told(texts, tmp_path):
    process = run(texts, tmp_path / "run", replay=[{"name": "again", "path": "domain.jsonl"}])
    assert "domain.jsonl: is in both data.train (domain) and data.replay (again), so its text is trained on more often" in process.stderr
    assert "trained on more often" not in run(texts, tmp_path / "other").stderr


def test_another_choice_is_another_training(texts, tmp_path):
    run(texts, tmp_path / "run")
    refused = run(texts, tmp_path / "run", check=False, deduplicate=True)
    assert refused.returncode == 2 and 'source "domain": its data (text, tokenizer, tag or excluded documents) has changed' in refused.stderr


def test_a_source_without_other_documents_is_an_error(texts, tmp_path):
    (tmp_path / "copy.jsonl").write_text((texts / "domain.jsonl").read_text().splitlines()[0] + "\n")
    sources = [{"name": "domain", "path": "domain.jsonl"}, {"name": "copy", "path": str(tmp_path / "copy.jsonl")}]
    refused = run(texts, tmp_path / "run", check=False, deduplicate=True, train=sources)
    assert refused.returncode == 2 and 'source "copy" has 1 documents' in refused.stderr and "1 documents are left out" in refused.stderr


def test_skipped_records_are_listed_by_a_run_and_shown_without_one(texts, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "the river is cold and"}\n{"text": 5}\n{"no": ""}\n')
    sources = [{"name": "bad", "path": str(tmp_path / "bad.jsonl"), "on_bad_record": "skip"}]
    run(texts, tmp_path / "run", train=sources)
    listed = [json.loads(line) for line in (tmp_path / "run" / "data" / "bad.skipped.jsonl").read_text().splitlines()]
    assert [(entry["where"].rpartition(":")[2], entry["reason"]) for entry in listed] == [("2", "field not a string"), ("3", "missing field")]
    shown = run_program("adept", "data", "inspect", tmp_path / "run" / "config.yaml", cwd=texts)
    assert "  skipped 1: field not a string\n  skipped 1: missing field\n" in shown.stdout and "bad.jsonl:2: field not a string: found " in shown.stdout
    assert "skipped.jsonl" not in shown.stderr, "no list that is removed at the end"


def test_the_training_text_can_be_looked_at_before_a_run(texts, tmp_path):
    """Statistics, the mixture, and the first sequences, of which nothing is written."""
    config = dict(model="base", output_dir=str(tmp_path / "none"), seq_len=64, method="full", unit_lr={"policy": "uniform"},
                  data={"train": [{"name": "domain", "path": "domain.jsonl", "tag": "a river: ", "weight": [[0, 1], [1, 3]]},
                                  {"name": "replay", "path": "replay.jsonl", "weight": 1}]}, train={"max_steps": 20})  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config))
    shown = run_program("adept", "data", "inspect", path, "--document-bytes", 0, "--sequences", 4, cwd=texts).stdout
    assert "domain (data.train): 33 documents, " in shown and " bytes per token" in shown and "  tokens of a document: " in shown
    assert sum(int(line.split()[-2]) for line in shown.partition("replay (")[0].splitlines() if line.endswith("#")) == 33
    assert "mixture of 20 steps, 80 sequences" in shown and "50.00% to 75.00%" in shown and "  to 100 %" in shown
    assert shown.count("\nsequence ") == 4 and "«a river: »" in shown and "--- tokens 0 to " in shown
    assert not (tmp_path / "none").exists() and "\x1b" not in shown
    fewer = run_program("adept", "data", "inspect", path, "--sequences", 0, cwd=texts).stdout
    assert "first step" not in fewer
    listed = dict(config, data={**config["data"], "eval": [{"name": "held", "path": "held.jsonl"}]})
    path.write_text(json.dumps(listed))
    warned = run_program("adept", "data", "inspect", path, "--sequences", 0, cwd=texts).stderr
    assert "data.eval (held): " in warned and "A run lists examples in contamination.json" in warned, "it writes none itself"
    wrong = run_program("adept", "data", "look", path, cwd=texts, check=False)
    assert wrong.returncode == 2 and "ACTION" in wrong.stderr


@pytest.mark.parametrize("place, message", [("/proc", "/proc: cannot create a temporary folder in it: "), ("no-folder", "no-folder: cannot use: ")])
def test_looking_at_text_without_a_place_for_temporary_files_says_so(texts, tmp_path, place, message):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(dict(model="base", output_dir=str(tmp_path / "none"), method="full", unit_lr={"policy": "uniform"},
                                    data={"train": [{"name": "domain", "path": "domain.jsonl"}]})))  # fmt: skip
    failed = run_program("adept", "data", "inspect", path, cwd=texts, env={**os.environ, "TMPDIR": place}, check=False)
    assert failed.returncode == 1 and message in failed.stderr.rpartition("error: ")[2] and failed.stdout == ""


def test_control_characters_of_a_text_do_not_reach_the_terminal(texts, tmp_path):
    (tmp_path / "hostile.jsonl").write_text(json.dumps({"text": "a\x1b[31mriver\x07 is\x7f cold\n\tand \x9b31m"}) + "\n")
    config = dict(model="base", output_dir=str(tmp_path / "none"), method="full", unit_lr={"policy": "uniform"},
                  data={"train": [{"name": "hostile", "path": str(tmp_path / "hostile.jsonl")}]})  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config))
    shown = run_program("adept", "data", "inspect", path, cwd=texts).stdout
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)
    assert "a\\x1b[31mriver\\x07 is\\x7f cold\n\tand \\x9b31m" in shown.replace("«", "").replace("»", "")

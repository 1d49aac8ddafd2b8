"""How documents become sequences, and how much is read of each source: packing, schedules, another mixture on resume."""

import json
import re

import pytest
import text_models
from conftest import run_program

ALLOWED = ("--allow-changed", "data")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    text_models.save("llama_tied", folder / "base")
    for i, name in enumerate(("domain", "general", "extra")):
        text_models.write_jsonl(folder / f"{name}.jsonl", text_models.sentences("general" if i else "domain", 60, seed=i))
    return folder


def source(name, **options):
    return {"name": name, "path": f"{name}.jsonl", **options}


def train(folder, out, *arguments, data, check=True, **options):
    config = dict(model="base", output_dir=str(out), threads=1, dtype="fp32", seq_len=32, method="full", data=data,
                  unit_lr={"policy": "uniform"}, train={"logging_steps": 1, "batch_size": 2, **options})  # fmt: skip
    path = out.parent / f"{out.name}.yaml"
    path.write_text(json.dumps(config))
    return run_program("adept", "run", path, *arguments, cwd=folder, check=check)


def used(out):
    return json.loads((out / "train_results.json").read_text())["train_sources"]


def test_a_schedule_moves_the_shares_over_the_training(texts, tmp_path):
    data = {"train": [source("domain", weight=[[0, 0], [1, 1]]), source("general", weight=1)]}
    process = train(texts, tmp_path / "rising", data=data, max_steps=20)
    assert re.search(r"domain .* 0.00% to 50.00%\n", process.stderr) and re.search(r"general .* 100.00% to 50.00%\n", process.stderr)
    sequences = {name: use["sequences"] for name, use in used(tmp_path / "rising").items()}
    results = json.loads((tmp_path / "rising" / "train_results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "rising" / "trainer_log.jsonl").read_text().splitlines()]
    assert 0 < results["data_wait"] < 1 and all(0 < line["data_wait"] < 1 for line in lines if "loss" in line)
    assert abs(sequences["domain"] - 10) <= 1.5 and sum(sequences.values()) == 40  # a quarter, in tokens about a quarter too


def test_a_falling_share_of_replay(texts, tmp_path):
    data = {"train": [source("domain")], "replay": [source("general", weight=1), source("extra", weight=[[0, 1], [1, 3]])]}
    process = train(texts, tmp_path / "run", data=data, max_steps=40, replay_ratio=[[0, "40%"], [0.5, 0]])
    assert re.search(r"domain .* 60.00% to 100.00%\n", process.stderr) and re.search(r"general .* 20.00% to 0.00%\n", process.stderr)
    use = used(tmp_path / "run")
    assert abs(use["general"]["sequences"] + use["extra"]["sequences"] - 8) <= 2
    resolved = (tmp_path / "run" / "config.yaml").read_text()
    assert "replay_ratio: [[0.0, 0.4], [0.5, 0.0]]" in resolved and "weight: [[0.0, 1.0], [1.0, 3.0]]" in resolved


def test_general_text_is_replayed_where_no_mixture_is_given(texts, tmp_path):
    data = {"train": [source("domain")], "general": [source("general", weight=3), source("extra", weight=1)],
            "eval": [{"name": "held", "path": "extra.jsonl", "role": "general"}]}  # fmt: skip
    process = train(texts, tmp_path / "run", data=data, num_train_epochs=2)
    assert "data.general: 2 % of the training tokens are replay of this text" in process.stderr
    assert "warning" not in process.stderr, "no text is in two places"
    use = used(tmp_path / "run")
    assert use.keys() == {"domain", "general-replay"}, "what is held out is not replayed"
    total = sum(source["sequences"] for source in use.values())
    assert abs(use["general-replay"]["sequences"] - 0.02 * total) <= 1 and use["general-replay"]["tokens"] > 0
    again = run_program("adept", "run", tmp_path / "run" / "config.yaml", cwd=texts)
    assert "train" in [line.split()[0] for line in again.stderr.splitlines() if line.endswith("unchanged, kept")]
    without = train(texts, tmp_path / "none", data=data, num_train_epochs=2, replay_ratio=0)
    assert used(tmp_path / "none").keys() == {"domain"} and "replay" not in without.stderr


def test_a_missing_general_text_is_one_problem(texts, tmp_path):
    data = {"train": [source("domain")], "general": [source("gone")]}
    process = train(texts, tmp_path / "run", data=data, max_steps=1, check=False)
    assert process.returncode == 2 and process.stderr.count("gone.jsonl: does not exist") == 1


@pytest.mark.parametrize(
    ("weight", "key", "message"),
    [
        ([[0.5, 1], [0.5, 2]], "data.train.0.weight.1.0", "found 0.5; expected a number > 0.5"),
        ([[0, 1], [1.5, 2]], "data.train.0.weight.1.0", "found 1.5; expected a number from 0 to 1"),
        ([[0, -1], [1, 2]], "data.train.0.weight.0.1", "found -1; expected a number from 0 to 1000000"),
        ([[0, 0], [1, 0]], "data.train.0.weight", "expected a point with a value above 0"),
        ([], "data.train.0.weight", "expected a point with a value above 0"),
        ([1, 2], "data.train.0.weight.0", "expected a list of two numbers, [progress, value]"),
        ([[0, 1, 2]], "data.train.0.weight.0", "expected a list of two numbers, [progress, value]"),
        ({"0": 1}, "data.train.0.weight", "found a section; expected a number > 0 and <= 1000000, or a list [[progress, value], ...]"),
        ("much", "data.train.0.weight", 'found the string \"much\"; expected a number > 0 and <= 1000000, or a list [[progress, value], ...]'),
        (0, "data.train.0.weight", "found 0; expected a number > 0 and <= 1000000, or a list [[progress, value], ...]"),
        ([[0, 1], [1, 0]], "data.train.0.weight", "found weight 0 of every source at progress 1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_an_error_at_its_place(texts, tmp_path, weight, key, message):
    process = train(texts, tmp_path / "run", data={"train": [source("domain", weight=weight)]}, check=False)
    assert process.returncode == 2 and f": {key}: " in process.stderr and message in process.stderr


def test_best_fit_splits_no_document_that_fits_and_the_run_says_what_it_costs(texts, tmp_path):
    rows = {}
    for packing in ("concat", "best_fit"):
        process = train(texts, tmp_path / packing, data={"train": [source("domain")], "packing": packing}, num_train_epochs=1)
        row = re.search(r"^domain +60 +([\d.]+)% +([\d,]+) +([\d,]+) +([\d.]+)%", process.stderr, re.MULTILINE)
        rows[packing] = [float(value.replace(",", "")) for value in row.groups()]
    (split, tokens, sequences, padding), (fit_split, fit_tokens, fit_sequences, fit_padding) = rows["concat"], rows["best_fit"]
    assert tokens == fit_tokens and sequences <= fit_sequences and padding < 100 / sequences + 1 < 101
    assert fit_split < split and fit_padding > padding
    refused = train(texts, tmp_path / "concat", data={"train": [source("domain")], "packing": "best_fit"}, num_train_epochs=2, check=False)
    assert refused.returncode == 2 and "data.packing" in refused.stderr


def test_another_mixture_on_resume_is_refused_by_name_and_can_be_allowed(texts, tmp_path):
    """What a source has given is not given again, whether its weight changes, it is removed, or it comes back."""
    out = tmp_path / "run"
    both = {"train": [source("domain", weight=1), source("general", weight=1)]}
    train(texts, out, data=both, max_steps=6)
    before = used(out)
    other = {"train": [source("domain", weight=1), source("extra", weight=3)]}
    refused = train(texts, out, data=other, max_steps=10, check=False)
    assert refused.returncode == 2 and "--allow-changed data" in refused.stderr
    for line in ('source "general" was removed', 'source "extra" is new', 'source "domain": its share of the tokens is 0.25 now, but was 0.5'):
        assert line in refused.stderr
    table = train(texts, out, *ALLOWED, data=other, max_steps=10).stdout
    assert used(out)["general"] == {**before["general"], "removed": True} and "removed" not in used(out)["domain"]
    general = before["general"]
    assert f"general: {general['tokens']} tokens in {general['sequences']} sequences, {general['epochs']:.2f} epochs (a source of an earlier mixture)" in table
    assert used(out)["extra"]["sequences"] == pytest.approx(6, abs=1)
    assert used(out)["domain"]["sequences"] == pytest.approx(before["domain"]["sequences"] + 2, abs=1)
    train(texts, out, *ALLOWED, data=both, max_steps=14)
    assert used(out)["general"]["sequences"] > before["general"]["sequences"] and "removed" not in used(out)["general"]
    log = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text().splitlines()]
    assert [line["current_steps"] for line in log if "loss" in line] == list(range(1, 15))
    train(texts, out, data=both, max_steps=16)  # that mixture is now the training's own


def test_only_the_mixture_can_be_allowed(texts, tmp_path):
    out = tmp_path / "run"
    data = {"train": [source("domain")]}
    train(texts, out, data=data, max_steps=2)
    changed = train(texts, out, *ALLOWED, "--set", "seed=7", data=data, max_steps=4, check=False)
    assert changed.returncode == 2 and "seed" in changed.stderr and "--allow-changed" not in changed.stderr.rpartition("error: ")[2]
    unknown = train(texts, out, "--allow-changed", "model", data=data, check=False)
    assert unknown.returncode == 2 and "--allow-changed" in unknown.stderr


def test_a_tag_is_context_that_is_not_trained_on(texts, tmp_path):
    """The first loss is that of transformers with the tag's labels left out."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (texts / "one.jsonl").write_text(json.dumps({"text": "the river is cold and the patient walks"}) + "\n")
    data = {"train": [source("one", tag="a river: ")]}
    train(texts, tmp_path / "run", data=data, max_steps=1, learning_rate=1e-9)
    found = json.loads((tmp_path / "run" / "trainer_log.jsonl").read_text().splitlines()[0])["loss"]
    tokenizer = AutoTokenizer.from_pretrained(texts / "base")
    model = AutoModelForCausalLM.from_pretrained(texts / "base", dtype=torch.float32)
    special = tokenizer("")["input_ids"]
    tag = tokenizer("a river: ", add_special_tokens=False)["input_ids"]
    document = tokenizer("the river is cold and the patient walks")["input_ids"]
    ids = [*special, *tag, *document[len(special) :], model.config.eos_token_id]
    labels = [*special, *[-100] * len(tag), *ids[len(special) + len(tag) :]]
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
    untagged = model(input_ids=torch.tensor([[*document, ids[-1]]]), labels=torch.tensor([[*document, ids[-1]]])).loss.item()
    assert found == pytest.approx(loss, abs=2e-5) and abs(found - untagged) > 1e-3

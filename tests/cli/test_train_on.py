"""`train_on: assistant`: only the answers of conversations are trained on and measured, from text, stores and in runs."""

import json
import re

import pytest
import text_models
from conftest import run_program, says

CHAT = """\
{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}\
{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"""
# The system message is in the last message of the user, as in Mistral's templates.
MOVES_SYSTEM = """\
{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}\
{% else %}{{ '<s>' + (ns.system if m.role == 'user' and loop.index0 + 2 >= loop.length else '') + m.content }}{% endif %}{% endfor %}"""
ANSWERS = ("--messages-field", "messages", "--train-on", "assistant")


def chat(*texts):
    """Of the user and the assistant, in turns."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def write_chats(path, chats):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in chats))
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_on")
    text_models.save("llama_tied", folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(CHAT)
    texts = iter(text_models.sentences("domain", 200))
    write_chats(folder / "chats.jsonl", [chat(*(next(texts) for _ in range(2 + 2 * (i % 2)))) for i in range(40)])
    write_chats(folder / "held.jsonl", [chat(next(texts), next(texts)) for _ in range(10)])
    text_models.write_jsonl(folder / "general.jsonl", text_models.sentences("general", 30))
    return folder


def adept(folder, *arguments, check=True):
    return run_program("adept", *arguments, cwd=folder, check=check)


def tokenize(folder, *arguments, check=True):
    return adept(folder, "tokenize", "--model", "base", *arguments, check=check)


def error_of(process, code):
    assert process.returncode == code, process.stderr
    return process.stderr.rpartition("error: ")[2]


def source(name, **options):
    return {"name": name, "path": f"{name}.jsonl", "messages_field": "messages", "train_on": "assistant", **options}


STEPS = {"max_steps": 4, "batch_size": 2, "logging_steps": 1, "learning_rate": 1e-3}


def config(folder, name, train, options=STEPS, **keys):
    data = {"train": train, "general": [{"name": "general", "path": "general.jsonl"}],
            "eval": [source("held", role="domain")], **keys.pop("data", {})}  # fmt: skip
    everything = {"model": "base", "output_dir": f"run-{name}", "threads": 1, "dtype": "fp32", "seq_len": 24, "data": data,
                  "expand": {"after": [0]}, "unit_lr": {"update_every": 2, "probe_tokens": 200},
                  "train": {"replay_ratio": 0, **options}, **keys}  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(everything))
    return path


def held_out(folder, name):
    """The results of the trained model."""
    return json.loads((folder / f"run-{name}" / "eval_model.json").read_text())["datasets"]["held"]


def losses(folder, name):
    lines = (folder / f"run-{name}" / "trainer_log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


def test_a_run_trains_and_measures_the_answers_from_text_or_a_store(folder):
    adept(folder, "run", config(folder, "text", [source("chats")]))
    adept(folder, "run", config(folder, "all", [source("chats", train_on="all")]))
    tokenize(folder, "--data", "chats.jsonl", *ANSWERS, "--out", "store", "--shard-bytes", 500)
    adept(folder, "run", config(folder, "store", [{"name": "chats", "path": "store"}]), "--verify")
    assert losses(folder, "text") == losses(folder, "store") != losses(folder, "all")
    assert held_out(folder, "text") == held_out(folder, "store") != held_out(folder, "all")
    for packing in ("concat", "best_fit"):
        tagged = config(folder, packing, [source("chats", tag="the domain: ")], data={"packing": packing, "document_mask": packing != "concat"})
        adept(folder, "run", tagged)
        assert all(0 < loss < 20 for loss in losses(folder, packing))


def test_inspect_marks_what_is_not_an_answer(folder):
    write_chats(folder / "chats.jsonl", [chat("Is it fever?", "Yes.", "And in a child?", "No.")] * 6)
    path = config(folder, "inspect", [source("chats")], seq_len=400)
    shown = adept(folder, "data", "inspect", path).stdout
    assert "«user: Is it fever?</s>assistant:» Yes.</s>«user: And in a child?</s>assistant:» No.</s>" in shown
    assert "«text» is not predicted" in shown
    context = len(text_models.encode("user: Is it fever?")) + len(text_models.encode("user: And in a child?")) + 2
    context += 2 * len(text_models.encode("assistant:"))
    assert says(shown, f"{6 * context} tokens are context only")


def test_a_long_context_without_answers_takes_no_steps(folder):
    """Sequences without a target are left out, not trained on."""
    long = " ".join(text_models.sentences("general", 60))
    write_chats(folder / "chats.jsonl", [chat(long, "Yes."), *(chat("Is it?", "No, it is not.") for _ in range(8))])
    keys = {"document_mask": False}
    adept(folder, "run", config(folder, "long", [source("chats")], data=keys, options={"num_train_epochs": 3, "batch_size": 1, "logging_steps": 1}))
    assert all(0 < loss < 20 for loss in losses(folder, "long"))
    tokens = sum(len(text_models.encode(f"user: {m[0]['content']}assistant: {m[1]['content']}"))
                 for m in map(lambda line: json.loads(line)["messages"], (folder / "chats.jsonl").read_text().splitlines()))  # fmt: skip
    trained = json.loads((folder / "run-long" / "train_results.json").read_text())["train_sources"]["chats"]
    assert trained["epochs"] == 3 and trained["tokens"] < 3 * tokens / 2


def test_a_store_of_all_tokens_is_another_one(folder):
    tokenize(folder, "--data", "chats.jsonl", *ANSWERS, "--out", "store")
    tokenize(folder, "--data", "chats.jsonl", *ANSWERS, "--out", "store")
    error = error_of(tokenize(folder, "--data", "chats.jsonl", *ANSWERS[:2], "--out", "store", check=False), 2)
    assert says(error, "store: contains a token store of other inputs...the text or its options")


def test_formats_without_a_place_for_context_are_refused(folder):
    for form in ("jsonl", "megatron"):
        out = ("--out", "ids", "--out-format", form)
        error = error_of(tokenize(folder, "--data", "chats.jsonl", *ANSWERS, *out, check=False), 2)
        assert says(error, f"--train-on assistant: found together with --out-format {form}...--train-on all")
    tokenize(folder, "--data", "chats.jsonl", *ANSWERS, "--out", "store")
    for form, name in (("jsonl", "a JSON list"), ("megatron", "Megatron-Core")):
        error = error_of(tokenize(folder, "--data", "store", "--out", "ids", "--out-format", form, check=False), 1)
        assert says(error, f"{name} has no place for tokens that are context only...--out-format store")
    assert not [path.name for path in folder.iterdir() if path.name.startswith("ids")]


def test_options_that_make_no_sense_are_errors_at_their_place(folder):
    error = error_of(tokenize(folder, "--data", "general.jsonl", "--train-on", "assistant", "--out", "x", check=False), 2)
    assert says(error, "--train-on: found assistant without messages_field")
    path = config(folder, "bad", [{"name": "general", "path": "general.jsonl", "train_on": "assistant"}])
    error = error_of(adept(folder, "run", path, check=False), 2)
    assert says(error, "data.train.0.train_on: found assistant without messages_field; expected messages_field")
    error = error_of(adept(folder, "run", config(folder, "word", [source("chats", train_on="user")]), check=False), 2)
    assert says(error, 'data.train.0.train_on: found the string "user"; expected all or assistant')
    assert says(adept(folder, "config", "--explain").stdout, "train_on")


def test_conversations_without_answers_are_bad_records(folder):
    good, none = chat("Is it?", "No."), chat("Is it?")
    write_chats(folder / "some.jsonl", [good, none, good])
    command = ("--data", "some.jsonl", *ANSWERS, "--out", "store")
    error = error_of(tokenize(folder, *command, check=False), 1)
    assert says(error, "some.jsonl:2: no answer: found 1 messages, none of the role assistant; expected...train_on is assistant")
    tokenize(folder, *command, "--on-bad-record", "skip")
    assert json.loads((folder / "store" / "store.json").read_text())["counts"]["skipped"] == {"no answer": 1}
    (folder / "base" / "chat_template.jinja").write_text(MOVES_SYSTEM)
    system = {"role": "system", "content": "S"}
    write_chats(folder / "some.jsonl", [good, [system, *chat("a", "b", "c", "d")]])
    error = error_of(tokenize(folder, *command, "--force", check=False), 1)
    assert says(error, "some.jsonl:2: answers not found: found that the chat template renders...expected...train_on: all")
    tokenize(folder, "--data", "some.jsonl", *ANSWERS[:2], "--out", "all")
    assert re.search("some +1 +2 ", tokenize(folder, "--data", "some.jsonl", *ANSWERS[:2], "--out", "all").stderr)

"""`train_on: assistant`: the tokens of answers, and the losses on them, as transformers and PyTorch have them."""

import json
import math
import subprocess

import pytest
import text_models
import torch
import transformers
from conftest import BUILD, run_program
from test_chat_template import real_templates, write_model
from text_models import one_thread  # noqa: F401, an automatic fixture

# As ChatML; the words of the roles are those that the tokenizer of the tests has.
CHATML = """\
{% for m in messages %}{{ '<s>' + m.role + '\\n' + m.content + '</s>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"""
MARKED = """\
{%- for m in messages -%}
    {{- '<s>' + m.role + '\\n' -}}
    {%- if m.role == 'assistant' -%}
        {%- generation -%}{{- m.content + '</s>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- m.content + '</s>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<s>assistant\\n' -}}{%- endif -%}"""
SEQ_LEN = 40


def conversations(count, seed):
    """Of one to three questions and answers, some with a system message."""
    said = iter(text_models.sentences("general", 8 * count, seed))
    result = []
    for i in range(count):
        messages = [{"role": "system", "content": next(said)}] if i % 3 == 0 else []
        for _ in range(1 + i % 3):
            messages += [{"role": "user", "content": next(said)}, {"role": "assistant", "content": next(said)}]
        result.append(messages)
    return result


def write_chats(path, chats):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in chats))
    return path


@pytest.fixture(scope="module", params=[CHATML, MARKED], ids=["by prompts", "marked"])
def setup(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_on")
    text_models.save("qwen3_layer_types", folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(request.param)
    chats = conversations(12, seed=3)
    write_chats(folder / "chats.jsonl", chats)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    return folder, chats, [labelled(tokenizer, messages, request.param == MARKED) for messages in chats]


def labelled(tokenizer, messages, is_marked):
    """(ids, whether each is of an answer, bytes of the answers), by transformers alone."""
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=MARKED, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    mask = encoded["assistant_masks"]
    num_bytes = sum(len((m["content"] + "</s>").encode()) for m in messages if m["role"] == "assistant")
    if not is_marked:  # the line's end is of the turn, too
        newline = text_models.encode("\n")
        assert len(newline) == 1
        mask = [int(here or (i > 0 and mask[i - 1])) for i, here in enumerate(mask)]
        num_bytes += sum(m["role"] == "assistant" for m in messages)
    return encoded["input_ids"], mask, num_bytes


def test_tokens_of_answers_are_those_that_transformers_masks(setup, tmp_path):
    folder, chats, documents = setup
    config = tmp_path / "train.yaml"
    source = {"name": "chats", "path": str(folder / "chats.jsonl"), "messages_field": "messages", "train_on": "assistant"}
    keys = {
        "model": str(folder / "model"), "output_dir": str(tmp_path / "run"), "dtype": "fp32", "seq_len": 4000, "threads": 1,
        "data": {"train": [source]}, "unit_lr": {"policy": "uniform"},
    }  # fmt: skip
    config.write_text(json.dumps(keys))
    [line] = map(json.loads, run_program("loader_tool", config, tmp_path / "cache", 1).stdout.splitlines())
    context = {i for begin, end in line["untrained"] for i in range(begin, end)}
    begins = [0, *line["document_starts"], len(line["tokens"])]
    found = []
    for begin, end in zip(begins, begins[1:]):
        ids, mask = line["tokens"][begin:end], [int(i not in context) for i in range(begin, end)]
        assert ids.pop() == text_models.EOS and mask.pop() == mask[-1], "the added EOS is as the token before it"
        found.append((ids, mask))
    assert sorted(found) == sorted((ids, mask) for ids, mask, _ in documents)


@torch.no_grad()
def test_losses_of_answers_are_those_of_transformers_with_labels(setup, tmp_path):
    folder, chats, documents = setup
    run_program(
        "adept", "eval", "--model", folder / "model", "--data", folder / "chats.jsonl", "--messages-field", "messages",
        "--train-on", "assistant", "--seq-len", SEQ_LEN, "--out", tmp_path / "results.json", "--threads", 1, "--dtype", "fp32",
    )  # fmt: skip
    [found] = json.loads((tmp_path / "results.json").read_text())["datasets"].values()
    model = text_models.load(folder / "model").double()
    total, tokens, measured, num_bytes = 0.0, 0, 0, 0.0
    for ids, mask, answer_bytes in documents:
        trained_here, is_kept = 0, False
        for begin in range(0, len(ids), SEQ_LEN):
            window = torch.tensor([ids[begin : begin + SEQ_LEN]])
            trained = mask[begin : begin + SEQ_LEN]
            labels = torch.where(torch.tensor([trained]) > 0, window, -100)
            count = sum(trained[1:])
            is_kept = is_kept if len(trained) == 1 else count > 0  # a token that is left belongs to the window before it
            trained_here += sum(trained) if is_kept else 0
            if count > 0:
                total += model(window, labels=labels, use_cache=False).loss.item() * count
                tokens += count
        measured += trained_here
        num_bytes += answer_bytes * trained_here / sum(mask)
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=2e-6)
    assert found["bits_per_byte"] == pytest.approx(total / tokens / math.log(2) * measured / num_bytes, rel=1e-3)
    assert found["bits_per_byte"] < total / tokens  # several bytes a token


def test_steps_on_answers_equal_pytorch_with_labels(setup, tmp_path):
    folder, chats, documents = setup
    steps, batch = 3, 4
    source = {"name": "chats", "path": str(folder / "chats.jsonl"), "messages_field": "messages", "train_on": "assistant"}
    config = tmp_path / "train.yaml"
    keys = {
        "model": str(folder / "model"), "output_dir": str(tmp_path / "run"), "dtype": "fp32", "seq_len": SEQ_LEN, "threads": 1,
        "data": {"train": [source], "packing": "best_fit"}, "method": "full", "unit_lr": {"policy": "uniform"},
        "train": {"learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_steps": 0, "max_steps": steps,
                  "batch_size": batch, "weight_decay": 0, "max_grad_norm": 1e9, "logging_steps": 1, "save_steps": 0},
    }  # fmt: skip
    config.write_text(json.dumps(keys))
    run_program("adept", "train", config)
    lines = [json.loads(line) for line in run_program("loader_tool", config, tmp_path / "cache", steps * batch).stdout.splitlines()]
    model = text_models.load(folder / "model", torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
    expected, counts = [], []
    for step in range(steps):
        optimizer.zero_grad()
        rows = []
        for line in lines[step * batch : (step + 1) * batch]:
            context = {i for begin, end in line["untrained"] for i in range(begin, end)}
            edges = [0, *line["document_starts"], len(line["tokens"])]
            for begin, end in zip(edges, edges[1:]):
                ids = line["tokens"][begin:end]
                rows.append((ids, [-100 if i in context else line["tokens"][i] for i in range(begin, end)]))
        count = sum(label != -100 for _, labels in rows for label in labels[1:])
        loss = 0.0
        for ids, labels in rows:
            if all(label == -100 for label in labels[1:]):
                continue
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
            part = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum") / count
            part.backward()
            loss += part.item()
        optimizer.step()
        expected.append(loss)
        counts.append(count)
    log = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in log] == pytest.approx(expected, rel=1e-4)
    assert 0 < sum(counts) < sum(len(line["tokens"]) for line in lines) / 1.3, "context is a good part of the tokens"


# ------------------------------------------------------------------------------------------------------- real templates

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "What is 1 < 2?"},
    {"role": "assistant", "content": "<b>Vrai</b>, évidemment."},
]
THOUGHTS = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    {"role": "user", "content": "Again"},
    {"role": "assistant", "content": "<think>\nLet us see\n</think>\n\nHello again"},
]
# What the real templates refuse, and those that do not render such messages at all.
ANSWERS_NOT_FOUND = {
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "turns"),  # it begins another answer after each
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "no system"),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "thoughts"),
    ("mistralai-Mistral-Nemo-Instruct-2407", "turns"),  # the system message is in the last one of the user
    ("LFM2.5-Instruct", "thoughts"),  # those of earlier answers are removed later
}
NOT_RENDERED = {
    "CohereForAI-c4ai-command-r-plus-tool_use", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
}  # fmt: skip


@pytest.mark.skipif(not real_templates(), reason="no .cache/jinja/templates: run scripts/fetch-jinja")
def test_answers_are_found_in_the_text_of_real_templates(tmp_path):
    chats = {"turns": TURNS, "no system": TURNS[1:], "thoughts": THOUGHTS, "first": [{"role": "assistant", "content": "Welcome"}, *TURNS[1:]]}
    names, lines = [], []
    for path in real_templates():
        with open(path, encoding="utf-8", newline="") as file:
            directory = write_model(tmp_path / path.stem, file.read())
        for name, messages in chats.items():
            names.append((path.stem, name))
            lines.append(json.dumps({"directory": str(directory), "messages": messages, "answers": True}))
    process = subprocess.run([BUILD / "chat_template_tool"], input="\n".join(lines) + "\n", capture_output=True, text=True)
    answers = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(answers) == len(names), process.stderr
    found = 0
    for (template, name), answer in zip(names, answers):
        if name == "first" and "error" in answer:
            continue  # many templates want a user first
        if template in NOT_RENDERED or (template, name) == ("google-gemma-2-2b-it", "turns"):
            assert answer["error"].startswith("messages not rendered: "), (template, name)
            continue
        if (template, name) in ANSWERS_NOT_FOUND:
            assert answer["error"].startswith("answers not found: "), (template, name)
            continue
        assert "error" not in answer, (template, name, answer)
        found += 1
        text = answer["text"].encode()
        parts = [text[begin:end].decode() for begin, end in answer["answers"]]
        said = [m["content"].split("</think>")[-1].strip() for m in chats[name] if m["role"] == "assistant"]
        assert len(parts) == len(said), (template, name)
        context, at = "", 0
        for begin, end in answer["answers"]:
            context, at = context + text[at:begin].decode() + "|", end
        context += text[at:].decode()
        for part, what in zip(parts, said):
            assert part.count(what) == 1, (template, name, parts)
        asked = [m["content"] for m in chats[name] if m["role"] != "assistant"]
        for what in asked:
            assert all(what not in part for part in parts), (template, name, parts)
            assert what in context or what in json.dumps(context), (template, name, context)
    assert found >= 200

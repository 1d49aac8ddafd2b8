"""`adept generate`: what it prints is what the model continues with."""

import json
import os
import shutil
import signal
import subprocess

import pytest
import text_models
import torch
import transformers
from conftest import BUILD, run_program, says

PROMPT = "The patient has a fever and naïve 日本 signs"


def generate(directory, *arguments):
    process = run_program("adept", "generate", "--model", directory, "--prompt", PROMPT, "--threads", 1, "--dtype", "fp32", *arguments)
    assert process.stderr == ""
    return process.stdout


@pytest.mark.parametrize("name, bos", [("llama_tied", True), ("mistral_sliding", False), ("qwen3_layer_types", False)])
def test_greedy_text_is_that_of_transformers(name, bos, tmp_path):
    directory = text_models.save(name, tmp_path / "model", bos=bos)
    ids = torch.tensor([text_models.encode(PROMPT, bos)])
    made = text_models.load(directory).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, eos_token_id=text_models.EOS
    )
    expected = text_models.tokenizer(bos=bos).decode(made[0].tolist(), skip_special_tokens=True)
    assert generate(directory, "--max-new-tokens", 30, "--temperature", 0) == expected + "\n"


def test_long_text_is_that_of_transformers(tmp_path):
    """Longer than what is kept of it to decode the next token."""
    directory = text_models.save("llama_tied", tmp_path / "model")
    ids = torch.tensor([text_models.encode(PROMPT)])
    made = text_models.load(directory).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=400, do_sample=False, eos_token_id=None
    )
    (directory / "generation_config.json").write_text("{}")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    expected = text_models.tokenizer().decode(made[0].tolist(), skip_special_tokens=True)
    expected = expected.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads the output of a process
    assert generate(directory, "--max-new-tokens", 400, "--temperature", 0) == expected + "\n"


def test_a_text_longer_than_the_model_was_made_for_is_named(tmp_path):
    directory = text_models.save("llama_tied", tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
    process = run_generate(directory, "--prompt", PROMPT, max_new_tokens=1)
    length = len(text_models.encode(PROMPT)) + 1
    assert says(process.stderr, f"--max-new-tokens: {length} exceeds max_position_embeddings 8 of {directory}")


def test_sampling_follows_the_seed_and_the_limits(tmp_path):
    directory = text_models.save("llama_tied", tmp_path / "model")
    hot = ("--max-new-tokens", 20, "--temperature", 1.5)
    assert generate(directory, *hot, "--seed", 1) == generate(directory, *hot, "--seed", 1)
    assert len({generate(directory, *hot, "--seed", seed) for seed in range(4)}) > 1
    greedy = generate(directory, "--max-new-tokens", 20, "--temperature", 0)
    assert generate(directory, *hot, "--top-p", 1e-9, "--seed", 3) == greedy, "only the likeliest token is left"
    assert generate(directory, "--max-new-tokens", 0) == PROMPT + "\n"


def test_the_end_token_ends_the_text(tmp_path):
    directory = text_models.save("llama_tied", tmp_path / "model")
    ids = text_models.encode(PROMPT)
    with torch.no_grad():
        likeliest = text_models.load(directory)(torch.tensor([ids])).logits[0, -1].argmax().item()
    config = directory / "generation_config.json"
    config.write_text(f'{{"eos_token_id": [{likeliest}]}}')
    assert generate(directory, "--max-new-tokens", 5, "--temperature", 0).startswith(PROMPT)
    whole = text_models.tokenizer().decode([*ids, likeliest], skip_special_tokens=True) + "\n"
    assert generate(directory, "--max-new-tokens", 5, "--temperature", 0) in (whole, PROMPT + "\n")


CHATML = (
    "{% for message in messages %}{{ '<|start|>' + message.role + '\\n' + message.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A model whose tokenizer writes BOS in front of texts, and has the special tokens of a chat template."""
    directory = text_models.save("llama_tied", tmp_path_factory.mktemp("chat") / "model", bos=True)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    added = [token["id"] for token in tokenizer["added_tokens"]]
    words = ["<|start|>", "<|end|>"]
    vocab = tokenizer["model"]["vocab"]
    for word, (old, index) in zip(words, sorted(vocab.items(), key=lambda item: -item[1])):
        # in the place of the last tokens, so that the model's vocabulary is as large as before
        assert index not in added
        del vocab[old]
        vocab[word] = index
        tokenizer["model"]["merges"] = [merge for merge in tokenizer["model"]["merges"] if "".join(merge) != old]
        tokenizer["added_tokens"].append(
            {"id": index, "content": word, "special": True, "normalized": False, "single_word": False, "lstrip": False,
             "rstrip": False}
        )  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(CHATML)
    return directory


def run_generate(directory, *arguments, max_new_tokens=6, **options):
    return run_program("adept", "generate", "--model", directory, "--threads", 1, "--max-new-tokens", max_new_tokens,
                       "--temperature", 0, "--dtype", "fp32", *arguments, **options)  # fmt: skip


def continued(directory, ids):
    """What transformers adds to `ids`, as text."""
    made = text_models.load(directory).generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return tokenizer.decode(made[0].tolist()[len(ids) :], skip_special_tokens=True)


@pytest.mark.parametrize("system", [None, "", "Be brief."])
def test_a_chat_continues_as_in_transformers(chat_model, system, tmp_path):
    messages = ([] if system is None else [{"role": "system", "content": system}]) + [{"role": "user", "content": PROMPT}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_model)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert "<|start|>" in text and tokenizer.bos_token_id not in ids
    answer = continued(chat_model, ids)
    options = () if system is None else ("--system", system)
    process = run_generate(chat_model, "--chat", "--prompt", PROMPT, *options)
    assert process.stdout == text + answer + "\n" and process.stderr == ""
    assert run_generate(chat_model, "--chat", "--prompt", PROMPT, *options, "--no-echo").stdout == answer + "\n"
    (tmp_path / "chat.json").write_text(json.dumps(messages))
    assert run_generate(chat_model, "--chat", "--messages", tmp_path / "chat.json").stdout == process.stdout
    piped = run_generate(chat_model, "--chat", "--messages", "-", input=json.dumps(messages))
    assert piped.stdout == process.stdout


def test_a_prompt_comes_from_a_file_or_standard_input(chat_model, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes((PROMPT + "\n").encode())
    expected = run_generate(chat_model, "--prompt", PROMPT).stdout
    assert expected.startswith(PROMPT)
    assert run_generate(chat_model, "--prompt-file", file).stdout == expected
    for arguments in ((), ("--prompt", "-"), ("--prompt-file", "-"), ("--prompt-file", "/dev/stdin")):
        assert run_generate(chat_model, *arguments, input=PROMPT + "\n").stdout == expected, arguments
    with file.open() as stdin:
        assert run_generate(chat_model, stdin=stdin).stdout == expected
    more = run_generate(chat_model, max_new_tokens=0, input=f"\n {PROMPT} \n\n\n").stdout
    assert more == f"\n {PROMPT} \n\n" + "\n"  # one newline is not part of it; then ours
    assert run_generate(chat_model, "--chat", input="Hi\n").stdout.startswith("<|start|>user\nHi<|end|>\n")


def test_the_prompt_is_echoed_byte_for_byte(chat_model):
    prompt = "<s><|start|>user\n \t naïve 日本\0🙂<|end|></s> <pad>"
    process = run_generate(chat_model, "--prompt-file", "-", max_new_tokens=0, input=prompt)
    assert process.stdout == prompt + "\n"


def test_special_tokens_of_the_new_text_are_printed_on_request(chat_model, tmp_path):
    ids = transformers.AutoTokenizer.from_pretrained(chat_model).encode(PROMPT)
    with torch.no_grad():
        likeliest = text_models.load(chat_model)(torch.tensor([ids])).logits[0, -1].argmax().item()
    model = tmp_path / "model"
    shutil.copytree(chat_model, model)
    # The token that follows becomes a special one, which ends the text.
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    [word] = [word for word, index in tokenizer["model"]["vocab"].items() if index == likeliest]
    tokenizer["added_tokens"].append(
        {"id": likeliest, "content": word, "special": True, "normalized": False, "single_word": True, "lstrip": False,
         "rstrip": False}
    )  # fmt: skip
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, likeliest]}))
    assert run_generate(model, "--prompt", PROMPT).stdout == PROMPT + "\n"
    added = transformers.AutoTokenizer.from_pretrained(model).decode([likeliest])
    assert run_generate(model, "--prompt", PROMPT, "--special-tokens").stdout == PROMPT + added + "\n"


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--prompt", "a", "--prompt-file", "b"], 2, "adept generate: found --prompt and --prompt-file; expected one"),
        (["--prompt", "a", "--system", "b"], 2, "adept generate: found --system without --chat; expected both"),
        (["--messages", "a"], 2, "adept generate: found --messages without --chat; expected both"),
        (["--chat", "--messages", "a", "--prompt", "b"], 2, "adept generate: found --messages and --prompt; expected one"),
        (["--chat", "--messages", "a", "--system", "b"], 2, "expected the system message in the file."),
        ([], 2, "adept generate: found no prompt; expected --prompt TEXT, --prompt-file FILE, ...standard input"),
        (["--chat"], 2, "expected --prompt TEXT, --prompt-file FILE, --messages FILE, ...standard input"),
        (["--prompt-file", "no/such"], 1, "no/such"),
        (["--chat", "--messages", "chat.json"], 2, 'chat.json: found message 2 without a "role"; expected [{"role": "user"'),
        (["--chat", "--messages", "empty.json"], 2, "empty.json: found no list of messages; expected [{"),
        (["--chat", "--prompt", "a", "--chat-template", "rag"], 1, 'no chat template "rag"; choose one with'),
        (["--prompt-file", "latin1.txt"], 2, "latin1.txt: found an invalid UTF-8 byte at offset 2"),
    ],
)  # fmt: skip
def test_wrong_prompts_are_explained(chat_model, arguments, code, message, tmp_path):
    (tmp_path / "chat.json").write_text('[{"role": "user", "content": "a"}, {"content": "b"}]')
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "latin1.txt").write_bytes(b"na\xefve")
    process = run_generate(chat_model, *arguments, check=False, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert process.returncode == code and says(process.stderr, message) and process.stdout == "", process


def test_a_pipe_without_text_is_no_prompt(chat_model):
    process = run_generate(chat_model, check=False, input="")
    assert process.returncode == 2 and "found no prompt" in process.stderr and "empty standard input" in process.stderr


def test_a_base_model_has_no_chat_template(tmp_path):
    directory = text_models.save("llama_tied", tmp_path / "model")
    process = run_generate(directory, "--chat", "--prompt", "Hi", check=False)
    assert process.returncode == 1 and f"{directory}: has no chat template (no chat_template.jinja" in process.stderr


def test_waiting_for_a_prompt_can_be_interrupted(chat_model, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    command = [BUILD / "adept", "generate", "--model", chat_model, "--prompt-file", tmp_path / "fifo"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "fifo").open("w"):  # once the program has opened it too
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130 and process.stderr.read() == "error: interrupted (SIGINT)\n"

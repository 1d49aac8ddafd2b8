"""`adept generate`: what it prints is what the model continues with."""

import pytest
import text_models
import torch
from conftest import run_program

PROMPT = "The patient has a fever and naïve 日本 signs"


def generate(directory, *arguments):
    process = run_program("adept", "generate", "--model", directory, "--prompt", PROMPT, "--threads", 1, *arguments)
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

"""Training the rows of new tokens against the same steps in PyTorch, where all other rows are frozen."""

import json

import pytest
import text_models
import torch
from conftest import run_program
from safetensors.torch import load_file
from test_training import (
    LORA,
    SEQ_LEN,
    STEPS,
    TRAIN,
    adamw,
    check_exported_logits,
    documents_of,
    read_lines,
    schedule,
    take_steps,
    trained_parameters,
    unit_names,
    write_config,
)
from text_models import one_thread  # noqa: F401, an automatic fixture
from torch.nn.utils import parametrize

TOKENS = ["anaemia", "inherited", "symptom", " cardiac enzyme", "arachnodactyly"]  # the last one is in no text


class Rows(torch.nn.Module):
    """A table in whose place another one is read: the same, but for some rows, which train."""

    def __init__(self, table, ids):
        super().__init__()
        self.ids, self.rows = torch.tensor(ids), torch.nn.Parameter(table.detach()[ids].clone())

    def forward(self, table):
        return table.detach().index_copy(0, self.ids, self.rows)


def train_rows(model, ids):
    """Their parameters by name; a tied head has the rows of the embedding."""
    tables = {"model.embed_tokens.weight": model.model.embed_tokens, "lm_head.weight": model.lm_head}
    rows = {name: Rows(module.weight, ids) for name, module in tables.items()}
    if model.config.tie_word_embeddings:
        rows["lm_head.weight"] = rows["model.embed_tokens.weight"]
    for name, module in tables.items():
        parametrize.register_parametrization(module, "weight", rows[name])
    names = list(rows)[: 1 if model.config.tie_word_embeddings else 2]
    return {f"{name}/new_tokens": rows[name].rows for name in names}


@pytest.fixture(scope="module", params=["llama_tied", "qwen2_max_window_layers"])
def start(request, tmp_path_factory):
    """A model with new tokens, with and without copies, and their text."""
    folder = tmp_path_factory.mktemp(request.param)
    text_models.save(request.param, folder / "base")
    text_models.write_jsonl(folder / "domain.jsonl", text_models.sentences("domain", 40))
    (folder / "tokens.txt").write_text("\n".join(TOKENS))
    run_program("adept", "expand-vocab", "--model", folder / "base", "--tokens", folder / "tokens.txt", "--out", folder / "new")
    run_program("adept", "expand", "--model", folder / "new", "--after", "1", "--out", folder / "expanded")
    return folder


@pytest.mark.parametrize("method, kernels", [("llama_pro", "fused"), ("lora", "fused"), ("top_k_layers", "fused"), ("llama_pro", "reference")])
def test_twenty_steps_equal_pytorch(start, method, kernels, tmp_path):
    model_dir = start / ("expanded" if method == "llama_pro" else "new")
    config = write_config(
        tmp_path / "train.yaml", model=str(model_dir), output_dir=str(tmp_path / "run"), seq_len=SEQ_LEN, threads=1,
        method=method, kernels=kernels, data={"train": [{"name": "domain", "path": str(start / "domain.jsonl")}]},
        train=TRAIN | {"train_new_embeddings": True}, lora=LORA, top_k_layers={"num_layers": 1},
    )  # fmt: skip
    run_program("adept", "train", config)
    per_step = TRAIN["batch_size"] * TRAIN["grad_accum"]
    printed = run_program("loader_tool", config, tmp_path / "cache", STEPS * per_step).stdout
    sequences = [documents_of(json.loads(line)) for line in printed.splitlines()]
    ids = [token["id"] for token in json.loads((model_dir / "adept_added_tokens.json").read_text())["tokens"]]
    seen = {token for documents in sequences for row in documents for token in row} & set(ids)
    assert seen == set(ids[:-1])

    model = text_models.load(model_dir, torch.float32)
    trained = unit_names(model, [2]) if method == "llama_pro" else trained_parameters(model, method)
    trained |= train_rows(model, ids)
    start_values = {key: p.detach().clone() for key, p in trained.items()}
    losses, norms = take_steps(model, trained, adamw(trained), sequences, lambda name, step: TRAIN["learning_rate"] * schedule(step))

    log = read_lines(tmp_path / "run" / "trainer_log.jsonl")
    assert [line["loss"] for line in log] == pytest.approx(losses, rel=1e-5)
    assert [line["grad_norm"] for line in log] == pytest.approx(norms, rel=1e-4)
    ours = load_file(tmp_path / "run" / f"checkpoint-{STEPS}" / "trainable.safetensors")
    assert set(ours) == set(trained)
    for key, p in trained.items():
        moved = (p.detach() - start_values[key]).square().mean().sqrt().item()
        apart = (p.detach() - ours[key]).square().mean().sqrt().item()
        assert moved > 0 and apart <= 2e-3 * moved, key

    result = tmp_path / "run" / "model"
    before, after = load_file(model_dir / "model.safetensors"), load_file(result / "model.safetensors")
    old = [row for row in range(before["model.embed_tokens.weight"].shape[0]) if row not in ids]
    for table in before.keys() & {"model.embed_tokens.weight", "lm_head.weight"}:
        assert torch.equal(after[table][old], before[table][old]) and not torch.equal(after[table], before[table])
    batch = torch.tensor([ids + old[5:30]])
    with torch.no_grad():
        exported, peer = text_models.load(result)(batch).logits, model(batch).logits
    assert ((exported - peer).abs().max() / peer.abs().max()).item() <= 2e-4
    check_exported_logits(result, tmp_path)

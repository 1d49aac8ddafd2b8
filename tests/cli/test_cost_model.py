"""tools/cost_model.py: its formulas against `adept plan`, and the table of docs/cost-model.md."""

import importlib.util

import pytest
import text_models
from conftest import ROOT
from test_plan import config, plan, texts  # noqa: F401

PADDING = 0.01  # relative, of the parts of small layers
spec = importlib.util.spec_from_file_location("cost_model", ROOT / "tools" / "cost_model.py")
cost_model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cost_model)


@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_the_formulas_are_those_of_adept_plan(texts, tmp_path, ranks):  # noqa: F811
    shape = cost_model.Shape("tiny", 4, 256, 8, 4, 512, 331, copies=2, head_dim=32)
    keys = dict(num_hidden_layers=4, hidden_size=256, num_attention_heads=8, num_key_value_heads=4, intermediate_size=512)
    text_models.save("llama", texts / "shape", **keys)
    path = config(texts, tmp_path / "run", model="shape", dtype="bf16", expand={"after": shape.after()})
    _, planned = plan(texts, path, "--gpus", ranks, "--gpu", "h100")
    machine = cost_model.H100
    assert planned["trained_parameters"] == shape.trained()
    assert planned["parameters"] == shape.base() + shape.trained()
    assert planned["bytes_sent_per_step_and_rank"] == pytest.approx(cost_model.gradient_bytes(shape, ranks))
    assert planned["flops_per_step_and_rank"] == pytest.approx(16 * 256 * shape.flops_per_token(256), rel=1e-6)
    seconds = planned["seconds"]
    assert seconds["communication"] == pytest.approx(cost_model.gradient_bytes(shape, ranks) / machine.bandwidth(ranks))
    assert seconds["layers"] + seconds["head"] == pytest.approx(16 * 256 * shape.flops_per_token(256) / machine.rate(), rel=1e-6)
    predicted, memory = planned["memory_bytes"], cost_model.memory(shape, ranks)
    for name in ("masters", "gradients", "moments"):
        assert predicted[name] == pytest.approx(memory[name], rel=PADDING if ranks > 1 else 1e-6), name
    vectors = cost_model.BF16 * 2 * shape.hidden * shape.copies  # norms of the copies, in bf16 beside their masters
    copies = memory["copies"] if ranks > 1 else vectors
    assert predicted["weights"] == memory["base"] + copies
    if ranks == 1:
        return
    path = config(texts, tmp_path / "sharded", model="shape", dtype="bf16", expand={"after": shape.after()}, dist={"shard_base": True})
    _, planned = plan(texts, path, "--gpus", ranks, "--gpu", "h100")
    micro_batches = 2  # of a step
    assert planned["bytes_gathered_per_step_and_rank"] == pytest.approx(micro_batches * cost_model.base_bytes(shape, ranks), rel=PADDING)
    held = cost_model.memory(shape, ranks, sharded=True)["base"]
    assert planned["memory_bytes"]["weights"] == pytest.approx(held + copies, rel=PADDING)


def test_the_table_of_the_documentation_is_the_one_that_is_calculated():
    assert cost_model.table() in (ROOT / "docs" / "cost-model.md").read_text()

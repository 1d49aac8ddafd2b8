"""adept plan: the predicted memory is that of a run; rates, links and prices of a machine lead to time and cost."""

import json

import pytest
import text_models
from conftest import run_program, says

# The probe of the tiny model chooses the lower one of two layers.
LOW = {"num_layers": 1, "exclude": [2, 3], "strategy": "lowest"}
MEASURING = 0.1  # relative, of the memory of a stage that measures
BASE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    for name in ("llama_tied", "gemma2", "qwen3_layer_types"):
        keys = dict(BASE) if name == "llama_tied" else {}
        text_models.save(name, folder / name, **keys)
    text_models.write_jsonl(folder / "domain.jsonl", text_models.sentences("domain", 400))
    text_models.write_jsonl(folder / "general.jsonl", text_models.sentences("general", 40))
    return folder


def config(folder, out, model="llama_tied", **changes):
    keys = dict(
        model=model, output_dir=str(out), threads=1, dtype="fp32", seq_len=256,
        data={"train": [{"name": "domain", "path": "domain.jsonl", "weight": 1}],
              "general": [{"name": "general", "path": "general.jsonl"}]},
        expand={"after": [0, 2]}, unit_lr={"probe_tokens": 200}, train={"max_steps": 1, "batch_size": 8, "grad_accum": 2},
    )  # fmt: skip
    path = out.parent / f"{out.name}.yaml"
    train = {**keys["train"], **changes.pop("train", {})}
    path.write_text(json.dumps({**keys, **changes, "train": train}))
    return path


def plan(folder, path, *arguments, check=True):
    out = path.with_suffix(".plan.json")
    process = run_program("adept", "plan", path, "--out", out, *arguments, cwd=folder, check=check)
    return process, json.loads(out.read_text()) if process.returncode == 0 else None


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"train": {"grad_accum": 1}}, {"method": "full"}, {"method": "full", "train": {"grad_accum": 1}}, {"method": "lora"},
        {"method": "top_k_layers", "top_k_layers": {"num_layers": 2}}, {"dtype": "bf16"},
        {"train": {"activation_checkpointing": "full"}}, {"train": {"activation_checkpointing": "selective", "grad_accum": 1}},
        {"model": "gemma2", "expand": {"after": [1]}}, {"model": "qwen3_layer_types", "expand": {"after": [1]}},
    ],
)  # fmt: skip
def test_the_memory_is_that_of_a_run(texts, tmp_path, changes):
    path = config(texts, tmp_path / "run", **changes)
    _, planned = plan(texts, path)
    run_program("adept", "run", path, cwd=texts)
    used = json.loads((tmp_path / "run" / "all_results.json").read_text())["memory_bytes"]
    predicted = planned["memory_bytes"]
    for exact in ("weights", "masters", "moments", "gradients"):
        assert predicted[exact] == used[exact], exact
    assert predicted["activations"] == pytest.approx(used["activations"], rel=0.05)
    assert predicted["total"] == pytest.approx(used["total"], rel=0.05)


def test_the_report_names_what_it_assumes_and_leaves_nothing(texts, tmp_path):
    path = config(texts, tmp_path / "run", expand={"num_layers": 2})
    before = sorted(tmp_path.iterdir())
    process = run_program("adept", "plan", path, cwd=texts)
    assert sorted(tmp_path.iterdir()) == before
    for text in ("1 x cpu: this machine: ", "copies          after layers 0, 1 (assumed: the probe will choose", "after layers 2, 3, which cost least: ",
                 "expand.after, or a finished probe in output_dir, makes the plan exact", "memory of a rank",
                 "8 sequences x 256 tokens x 2 micro-batches x 1 ranks = 4,096 tokens", "fits", "largest batch   train.batch_size: ",
                 "time of a step", "(measured parts)", "1 steps, 4,096 tokens"):  # fmt: skip
        assert text in process.stdout, text


def test_layers_that_a_probe_will_choose_are_planned_as_the_lowest_until_it_has(texts, tmp_path):
    path = config(texts, tmp_path / "run", expand=LOW, train={"eval_steps": 0})
    _, assumed = plan(texts, path)
    assert assumed["assumes_layers"] and assumed["after"] == [0] and assumed["least"]["after"] == [1]
    fixed = {after: plan(texts, config(texts, tmp_path / f"fixed{after}", expand={"after": [after]}))[1]["memory_bytes"] for after in (0, 1)}
    assert fixed[0] == assumed["memory_bytes"] and fixed[1]["total"] == assumed["least"]["memory_bytes"] < fixed[0]["total"]
    run_program("adept", "run", path, cwd=texts)
    chosen = [copy["source"] for copy in json.loads((tmp_path / "run" / "model" / "adept_expansion.json").read_text())["expanded_layers"]]
    used = json.loads((tmp_path / "run" / "all_results.json").read_text())["memory_bytes"]
    assert chosen == [0]
    assert assumed["memory_bytes"]["total"] == pytest.approx(used["total"], rel=0.05)
    process, known = plan(texts, path)
    assert not known["assumes_layers"] and known["after"] == chosen and known["least"] is None and "assumed" not in process.stdout
    assert plan(texts, path, "--set", "probe.max_tokens=77")[1]["assumes_layers"], "of another probe"
    elsewhere = config(texts, tmp_path / "other", expand={**LOW, "exclude": [0, 1]})
    assert plan(texts, elsewhere)[1]["after"] == [2]


def test_time_and_cost_follow_from_the_machine(texts, tmp_path):
    machine = {"memory": 1e9, "matmul_flops": 1e12, "memory_bandwidth": 1e11, "link_bandwidth": 1e9, "efficiency": 0.5,
               "price_per_hour": 3, "devices_per_host": 4}  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps(machine))
    path = config(texts, tmp_path / "run", dtype="bf16", train={"max_steps": 3600})
    process, planned = plan(texts, path, "--gpus", 4, "--gpu", tmp_path / "own.json")
    assert f"4 x own: {tmp_path}/own.json" in process.stdout and "(assumed: 50 % of the peak rate of matrix products)" in process.stdout
    seconds = planned["seconds"]
    trained = planned["trained_parameters"]
    assert seconds["layers"] + seconds["head"] == pytest.approx(planned["flops_per_step_and_rank"] / 0.5e12)
    assert seconds["update"] == pytest.approx(28 * trained / 4 / 1e11, rel=0.01)
    assert planned["bytes_sent_per_step_and_rank"] == pytest.approx((2 * 4 + 2) * trained * 3 / 4)
    assert seconds["communication"] == pytest.approx(planned["bytes_sent_per_step_and_rank"] / 1e9)
    assert planned["tokens_per_step"] == 4 * 8 * 2 * 256
    (units,) = planned["measuring"].values()  # unit importance
    assert units["times"] == 8 and units["seconds"] > 0
    seconds = 3600 * planned["seconds_per_step"] + 8 * units["seconds"]
    assert planned["hours"] == pytest.approx(seconds / 3600) and planned["cost"] == pytest.approx(12 * planned["hours"])


def test_a_known_gpu_computes_in_bf16_and_a_file_may_change_it(texts, tmp_path):
    path = config(texts, tmp_path / "run", dtype="auto")
    h100 = plan(texts, path, "--gpu", "h100", "--gpus", 8)[1]
    (tmp_path / "slow.json").write_text(json.dumps({"base": "h100", "efficiency": 0.2}))
    slow = plan(texts, path, "--gpu", tmp_path / "slow.json", "--gpus", 8)[1]
    assert slow["seconds"]["layers"] == pytest.approx(2 * h100["seconds"]["layers"])
    assert slow["memory_bytes"] == h100["memory_bytes"] and h100["fits"]
    alone = plan(texts, path, "--gpu", "h100")[1]
    assert h100["memory_bytes"]["moments"] == pytest.approx(alone["memory_bytes"]["moments"] / 8, abs=8)
    assert alone["bytes_sent_per_step_and_rank"] == 0 and alone["seconds"]["communication"] == 0


def test_a_file_may_have_any_name_and_ranks_of_this_machine_share_it(texts, tmp_path):
    path = config(texts, tmp_path / "run")
    (tmp_path / "cpu.json").write_text(json.dumps({"memory": 1e9, "matmul_flops": 1e12, "memory_bandwidth": 1e11}))
    process, planned = plan(texts, path, "--gpu", tmp_path / "cpu.json")
    assert planned["usable_bytes"] == pytest.approx(0.93e9) and "(assumed: 40 %" in process.stdout
    one = plan(texts, path)[1]["usable_bytes"]
    process, two = plan(texts, path, "--gpus", 2)
    assert two["usable_bytes"] == one // 2 and "time not known" in process.stdout and "share this machine's cores" in process.stdout


def test_what_does_not_fit_comes_with_what_does(texts, tmp_path):
    path = config(texts, tmp_path / "run")
    peak = plan(texts, path)[1]["memory_bytes"]["total"]
    (tmp_path / "small.json").write_text(json.dumps({"base": "h100", "memory": 0.6 * peak}))
    process, planned = plan(texts, path, "--gpu", tmp_path / "small.json")
    assert not planned["fits"] and "does not fit" in process.stdout
    changes = {advice["change"]: advice["memory_bytes"] for advice in planned["advice"]}
    assert changes["train.batch_size: 1"] < peak and changes["train.activation_checkpointing: full"] < peak
    largest = planned["largest_batch_size"]
    assert 1 <= largest < 8
    for batch, fits in ((largest, True), (largest + 1, False)):
        assert plan(texts, path, "--gpu", tmp_path / "small.json", "--set", f"train.batch_size={batch}")[1]["fits"] == fits
    (tmp_path / "none.json").write_text(json.dumps({"base": "h100", "memory": 1000}))
    process, planned = plan(texts, path, "--gpu", tmp_path / "none.json")
    assert planned["largest_batch_size"] == 0 and "none fits" in process.stdout


def test_the_length_of_a_run_comes_from_its_text_or_from_tokens(texts, tmp_path):
    path = config(texts, tmp_path / "run", train={"max_steps": None, "num_train_epochs": 1})
    _, planned = plan(texts, path)
    run = run_program("adept", "run", path, cwd=texts)
    assert f"train      {planned['steps']}/{planned['steps']} steps" in run.stderr
    assert plan(texts, path, "--tokens", 10 * 4096)[1]["steps"] == 10
    assert plan(texts, path, "--tokens", 10 * 4096, "--set", "train.max_steps=3")[1]["steps"] == 10, "the command line wins"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "none.json"], '--gpu: "none.json": there is no such file; expected cpu, a100, h100, h200, b200 or the path of a JSON file'),
        (["--gpus", "0"], "--gpus: "),
        (["--tokens", "-1"], "--tokens: "),
        (["--gpu", "bad.json"], "bad.json: memory: found -1; expected a number from 1 to 1e+15 (bytes)...bad.json: efficiency: found 2; "
                                "expected a number from 0.0001 to 1...bad.json: speed: unknown; expected base, memory, ..."
                                "bad.json: matmul_flops: found nothing"),
        (["--set", "expand.after=[9]"], "expand.after: found 9"),
        (["--set", "model=nowhere"], "model: nowhere"),
    ],
)  # fmt: skip
def test_wrong_arguments(texts, tmp_path, arguments, message):
    (texts / "bad.json").write_text(json.dumps({"memory": -1, "efficiency": 2, "speed": 1}))
    process, _ = plan(texts, config(texts, tmp_path / "run"), *arguments, check=False)
    assert process.returncode == 2 and says(process.stderr.replace("\n", " "), message), process.stderr


NUMBERS = {"memory": "bytes", "matmul_flops": "per second", "matmul_flops_fp32": "per second", "memory_bandwidth": "bytes per second",
           "link_bandwidth": "bytes per second", "network_bandwidth": "bytes per second", "devices_per_host": "devices",
           "efficiency": "of matmul_flops", "price_per_hour": "per device"}  # fmt: skip


@pytest.fixture(scope="module")
def any_config(texts, tmp_path_factory):
    return config(texts, tmp_path_factory.mktemp("machines") / "run")


def refusal_of_machine(texts, path, content, tmp_path):
    (tmp_path / "machine.json").write_text(content if isinstance(content, str) else json.dumps(content))
    process = run_program("adept", "plan", path, "--gpu", tmp_path / "machine.json", cwd=texts, check=False)
    assert process.returncode == 2, process.stderr
    return process.stderr


@pytest.mark.parametrize("value", [-1, 1e300, "80", True, None, [1], {"GB": 80}])
def test_every_number_of_a_machine_has_a_type_and_a_range(texts, any_config, tmp_path, value):
    errors = refusal_of_machine(texts, any_config, {"base": "h100", **dict.fromkeys(NUMBERS, value)}, tmp_path)
    shown = json.dumps(value, separators=(",", ":"))
    for name, unit in NUMBERS.items():
        assert says(errors, f"machine.json: {name}: found {shown}; expected a ...number from ... to ...({unit})"), name


@pytest.mark.parametrize("content, message", [
    ({"base": "h100", "devices_per_host": 1.5}, "devices_per_host: found 1.5; expected a whole number from 1 to 1024"),
    ({"base": "h100", "network_bandwidth": 1e-300}, "network_bandwidth: found 1e-300; expected a number from 1000 to"),
    ({"base": "h100", "memory": 0}, "memory: found 0; expected"),
    ({"base": "zz"}, 'base: found "zz"; expected a100, h100, h200, b200'),
    ({"base": 100}, "base: found 100; expected a100"),
    ({}, "memory: found nothing; expected a number, or a base that has it"),
    ("[]", "found no JSON object; expected the fields of a machine: base, memory"),
    ("{", "not valid JSON: line 1, column 2: found the end of input; expected ...base, memory"),
    ("", "not valid JSON: it is empty"),
    ('{"base": "h100", "base": "h200"}', 'the key "base" appears twice'),
])  # fmt: skip
def test_odd_files_of_a_machine_are_refused(texts, any_config, tmp_path, content, message):
    assert says(refusal_of_machine(texts, any_config, content, tmp_path), f"machine.json: {message}")


def test_a_price_of_nothing_and_whole_numbers_with_a_point_are_good(texts, tmp_path):
    (tmp_path / "free.json").write_text('{"base": "h100", "price_per_hour": 0, "devices_per_host": 4.0}')
    plan(texts, config(texts, tmp_path / "run"), "--gpu", tmp_path / "free.json")


@pytest.mark.parametrize("out, found", [("run.yaml", "is the configuration"), ("own.json", "is the machine file"),
                                        ("domain.jsonl", "is an input of the source")])  # fmt: skip
def test_an_input_is_not_overwritten(texts, any_config, tmp_path, out, found):
    (tmp_path / "own.json").write_text('{"base": "h100"}')
    path = {"run.yaml": any_config, "own.json": tmp_path / "own.json", "domain.jsonl": texts / "domain.jsonl"}[out]
    before = path.read_bytes()
    process = run_program("adept", "plan", any_config, "--gpu", tmp_path / "own.json", "--out", path, cwd=texts, check=False)
    assert process.returncode == 2 and says(process.stderr, f"--out {path}: ...{found}") and path.read_bytes() == before


@pytest.mark.parametrize("out", ["none/plan.json", ".", "llama_tied/config.json"])
def test_a_path_that_cannot_be_written_is_refused_before_the_work(texts, any_config, out):
    before = (texts / "llama_tied" / "config.json").read_bytes()
    process = run_program("adept", "plan", any_config, "--out", out, cwd=texts, check=False)
    assert process.returncode in (1, 2) and says(process.stderr, f"{out}: ") and process.stdout == ""
    assert (texts / "llama_tied" / "config.json").read_bytes() == before


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 6])
def test_the_memory_with_a_trained_head_is_that_of_a_run(texts, tmp_path, ranks, batch_size):
    """Its logits are those of a chunk of tokens: 1,024 of this vocabulary."""
    text_models.save("llama_tied", texts / "many", vocab_size=32 * 1024, hidden_size=192, intermediate_size=320)
    path = config(texts, tmp_path / "run", model="many", method="full", unit_lr={"policy": "uniform"},
                  dist={"shard_base": ranks > 1}, train={"eval_steps": 0, "batch_size": batch_size})  # fmt: skip
    _, planned = plan(texts, path, "--gpus", ranks)
    run_program("adept", "run", path, "--nproc", ranks, cwd=texts)
    used = json.loads((tmp_path / "run" / "all_results.json").read_text())["memory_bytes"]
    assert planned["memory_bytes"]["total"] == pytest.approx(used["total"], rel=0.05)
    for part in ("weights", "masters", "gradients", "moments"):
        assert planned["memory_bytes"][part] == used[part], part


def test_the_memory_of_ranks_that_share_the_frozen_layers_is_that_of_a_run(texts, tmp_path):
    path = config(texts, tmp_path / "run", unit_lr={"policy": "uniform"}, dist={"shard_base": True}, train={"eval_steps": 0})
    _, planned = plan(texts, path, "--gpus", 2)
    run_program("adept", "run", path, "--nproc", "2", cwd=texts)
    used = json.loads((tmp_path / "run" / "all_results.json").read_text())["memory_bytes"]
    for exact in ("weights", "masters", "gradients"):
        assert planned["memory_bytes"][exact] == used[exact], exact
    assert planned["memory_bytes"]["moments"] == pytest.approx(used["moments"], rel=0.001)  # of rank 0
    assert planned["memory_bytes"]["total"] == pytest.approx(used["total"], rel=0.05)


@pytest.mark.parametrize("changes", [
    {"method": "lora", "lora": {"rank": 128}, "seq_len": 16},  # gradients are sent from copies
    {"dist": {"deterministic": True}, "seq_len": 16},
    {"dist": {"deterministic": True}, "train": {"batch_size": 1, "grad_accum": 1}},
    {"dist": {"shard_base": True}, "seq_len": 64, "expand": {"after": [3]}},  # Gloo gathers a layer into a copy
    {"dist": {"shard_base": True}, "method": "full"},
])  # fmt: skip
def test_the_memory_of_ranks_has_their_buffers(texts, tmp_path, changes):
    path = config(texts, tmp_path / "run", unit_lr={"policy": "uniform"}, **changes)
    _, planned = plan(texts, path, "--gpus", 2)
    run_program("adept", "run", path, "--nproc", "2", cwd=texts)
    used = json.loads((tmp_path / "run" / "all_results.json").read_text())["memory_bytes"]
    assert planned["memory_bytes"]["total"] == pytest.approx(used["total"], rel=0.05)


@pytest.mark.parametrize("changes", [
    {}, {"probe": {"method": "fisher"}}, {"expand": {"num_layers": 1, "strategy": "gain_per_cost"}}, {"dtype": "bf16"},
    {"dist": {"shard_base": True}}, {"dist": {"shard_base": True}, "expand": {"num_layers": 1, "strategy": "gain_per_cost"}},
])  # fmt: skip
def test_the_memory_of_measuring_stages_is_that_of_a_run(texts, tmp_path, changes):
    """Of batches so large that the copy of a layer in flight, which Gloo makes, counts little."""
    text_models.write_jsonl(texts / "long.jsonl", [" ".join(text_models.sentences("general", 60, seed=i)) for i in range(24)])
    data = {part: [{"name": f"{part}-text", "path": "long.jsonl"}] for part in ("general", "eval")}
    path = config(texts, tmp_path / "run", **{
        "expand": {"num_layers": 1}, "probe": {"max_tokens": 4096, "batch_size": 16}, **changes,
        "data": {"train": [{"name": "domain", "path": "domain.jsonl", "weight": 1}], **data},
        "eval": {"max_tokens": 4096, "copies_tokens": 4096, "batch_size": 16}})  # fmt: skip
    ranks = 2 if "dist" in changes else 1
    _, planned = plan(texts, path, "--gpus", ranks)
    run_program("adept", "run", path, *(["--nproc", "2"] if ranks > 1 else []), cwd=texts)
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    for stage in ("baseline", "probe", "eval", "copies"):
        predicted, used = planned["memory_bytes_of_measuring"][stage], results[f"memory_bytes_{stage}"]
        assert predicted["weights"] == used["weights"], stage
        assert predicted["total"] == pytest.approx(used["total"], rel=MEASURING), stage


def test_gathering_takes_the_time_that_the_layers_do_not_hide(texts, tmp_path):
    path = config(texts, tmp_path / "run", dist={"shard_base": True}, dtype="bf16", expand={"after": [1]})
    (tmp_path / "slow.json").write_text(json.dumps({"base": "h100", "link_bandwidth": 1e6}))
    fast, slow = (plan(texts, path, "--gpu", gpu, "--gpus", 4)[1] for gpu in ("h100", tmp_path / "slow.json"))
    gathered = slow["bytes_gathered_per_step_and_rank"]
    layer = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512 + 2 * 256)  # bytes
    assert gathered == pytest.approx(2 * 3 / 4 * (4 + 2) * layer, rel=0.01)  # 2 micro-batches; back to layer 2 of 5
    sent = slow["bytes_sent_per_step_and_rank"] / 1e6
    assert slow["seconds"]["communication"] == pytest.approx(sent + gathered / 1e6 - slow["seconds"]["layers"])
    assert fast["bytes_gathered_per_step_and_rank"] == gathered
    process, _ = plan(texts, config(texts, tmp_path / "alone", dist={"shard_base": True}), check=False)
    assert process.returncode == 2 and says(process.stderr, "dist.shard_base: found true for one rank; expected several")


def test_what_does_not_fit_on_some_ranks_fits_on_ranks_that_share(texts, tmp_path):
    text_models.save("llama_tied", texts / "deep", **{**BASE, "num_hidden_layers": 16})
    path = config(texts, tmp_path / "run", model="deep", dtype="bf16", expand={"after": [15]}, train={"batch_size": 1, "grad_accum": 1})
    memory = plan(texts, path, "--gpu", "h100", "--gpus", 2)[1]["memory_bytes"]["total"]
    (tmp_path / "small.json").write_text(json.dumps({"base": "h100", "memory": (memory - 1e6) / 0.93}))
    process, planned = plan(texts, path, "--gpu", tmp_path / "small.json", "--gpus", 2)
    assert not planned["fits"]
    *_, last = planned["advice"]
    assert last["change"] == "dist.shard_base: true" and last["memory_bytes"] <= planned["usable_bytes"]
    assert says(process.stdout, "with dist.shard_base: true: ..., fits")
    (tmp_path / "smaller.json").write_text(json.dumps({"base": "h100", "memory": (memory - 10e6) / 0.93}))
    *_, last = plan(texts, path, "--gpu", tmp_path / "smaller.json", "--gpus", 2)[1]["advice"]
    assert says(last["change"], "--gpus 4, dist.shard_base: true...") and last["memory_bytes"] < memory - 10e6


def test_a_wide_model_is_rehearsed_in_a_narrow_one(texts, tmp_path):
    """The rehearsal on this machine, which is timed, takes the model itself."""
    wide = {**BASE, "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 2}
    text_models.save("llama_tied", texts / "wide", **wide)
    general = {"name": "general", "path": "general.jsonl"}
    path = config(texts, tmp_path / "run", model="wide", expand={"num_layers": 1}, probe={"method": "fisher"}, train={"batch_size": 16, "eval_steps": 1},
                  unit_lr={"probe_tokens": 4096}, data={"train": [{"name": "domain", "path": "domain.jsonl", "weight": 1}],
                                                        "general": [general], "eval": [{**general, "name": "held-out"}]})
    machine = {"memory": 1e11, "matmul_flops": 1e12, "matmul_flops_fp32": 1e12, "memory_bandwidth": 1e11}
    (tmp_path / "own.json").write_text(json.dumps(machine))
    plans = [plan(texts, path, "--gpu", gpu)[1] for gpu in (tmp_path / "own.json", "cpu")]
    narrow, whole = (planned["memory_bytes"] for planned in plans)
    assert narrow["activations"] == pytest.approx(whole["activations"], rel=0.03)
    assert narrow["total"] == pytest.approx(whole["total"], rel=0.05)
    narrow, whole = (planned["memory_bytes_of_measuring"] for planned in plans)
    assert list(narrow) == ["baseline", "probe", "unit importance", "eval in training", "eval", "copies"]
    for stage, memory in narrow.items():
        assert memory["total"] == pytest.approx(whole[stage]["total"], rel=MEASURING), stage


def test_a_plan_for_a_gpu_needs_none(texts, tmp_path):
    of = {device: plan(texts, config(texts, tmp_path / device, device=device), "--gpu", "h100")[1] for device in ("cpu", "cuda")}
    assert of["cuda"] == of["cpu"]


def test_a_narrow_model_does_not_take_its_heads_from_the_defaults_of_the_architecture(texts, tmp_path):
    wide = {"hidden_size": 2048, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 2}
    text_models.save("gemma2", texts / "defaults", **wide)
    file = texts / "defaults" / "config.json"
    keys = json.loads(file.read_text())
    assert keys.pop("num_key_value_heads") == 4  # Gemma 2's default
    file.write_text(json.dumps(keys))
    path = config(texts, tmp_path / "run", model="defaults", expand={"after": [0]}, dtype="bf16")
    assert plan(texts, path, "--gpu", "h100")[1]["fits"]


def test_a_head_on_a_gpu_has_the_logits_of_a_chunk(texts, tmp_path):
    """2,048 tokens in two chunks of 1,024, as 32 Mi logits are the most: in the compute dtype, in fp32, their log-softmax,
    and their gradient. What else a step takes above its activations is less."""
    text_models.save("llama_tied", texts / "logits", vocab_size=32 * 1024, hidden_size=96, intermediate_size=96, num_hidden_layers=2)
    text_models.save("gemma2", texts / "capped", vocab_size=32 * 1024, hidden_size=96, intermediate_size=96, num_hidden_layers=2)
    logits = 1024 * 32 * 1024
    for model, dtype, bytes_of_logit in (("logits", "bf16", 2 + 4 + 4 + 2), ("logits", "fp32", 4 + 4), ("capped", "bf16", 2 + 4 * 4)):
        path = config(texts, tmp_path / f"{model}-{dtype}", model=model, dtype=dtype, expand={"after": [1]}, train={"grad_accum": 1})
        on_gpu, here = (plan(texts, path, "--gpu", gpu)[1]["memory_bytes"] for gpu in ("h100", "cpu"))
        assert on_gpu["work_space"] == pytest.approx(logits * bytes_of_logit, rel=0.02), (model, dtype)
        assert here["work_space"] < 0.3 * on_gpu["work_space"]


def test_a_trained_head_on_a_gpu_is_converted_and_has_a_gradient_of_a_chunk(texts, tmp_path):
    text_models.save("llama_tied", texts / "trained", **{**BASE, "vocab_size": 32 * 1024, "num_hidden_layers": 1})
    path = config(texts, tmp_path / "run", model="trained", method="full", dtype="bf16", unit_lr={"policy": "uniform"}, train={"grad_accum": 1})
    memory = plan(texts, path, "--gpu", "h100")[1]["memory_bytes"]
    head = 32 * 1024 * 256
    assert memory["weights"] + memory["masters"] < memory["total"]
    peak = memory["total"] - memory["weights"] - memory["masters"] - memory["moments"] - memory["activations"]
    assert peak == pytest.approx(1024 * 32 * 1024 * 12 + 2 * 2 * head, rel=0.02)


LAYER = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512  # elements of its matrices in BASE
HEAD = 256 * 331


def flops(forward=0, frozen=0, trained=0, heads=0, heads_with_gradient=0):
    """Of a token in layers of BASE and a sequence of 256: two for each product, and for each gradient of it; attention has
    128 positions on average, two products forward and four backward."""
    attention = 2 * 2 * 256 * 128
    return (forward * (2 * LAYER + attention) + frozen * (4 * LAYER + 3 * attention) + trained * (6 * LAYER + 3 * attention)
            + 2 * HEAD * (heads + 2 * heads_with_gradient))  # fmt: skip


@pytest.mark.parametrize("probe, probe_flops", [
    ({}, flops(forward=4 + 6, heads=5)),  # mask_out: the layers above each, once without it
    ({"method": "fisher"}, flops(forward=4, trained=4, heads_with_gradient=1)),
    ({"method": "block_influence"}, flops(forward=4, heads=1)),
])  # fmt: skip
def test_the_time_of_what_is_measured_follows_from_its_operations(texts, tmp_path, probe, probe_flops):
    texts_of = " ".join(text_models.sentences("general", 400))
    text_models.write_jsonl(texts / "one.jsonl", [texts_of])  # full windows
    data = {"train": [{"name": "domain", "path": "domain.jsonl", "weight": 1}],
            "general": [{"name": "general", "path": "one.jsonl"}], "eval": [{"name": "held-out", "path": "one.jsonl"}]}  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps({"memory": 1e11, "matmul_flops": 1e12, "memory_bandwidth": 1e11, "efficiency": 0.5,
                                                   "link_bandwidth": 1e9}))  # fmt: skip
    path = config(texts, tmp_path / "run", data=data, probe={"max_tokens": 2048, "batch_size": 4, **probe}, expand={"num_layers": 1},
                  eval={"max_tokens": 2048, "copies_tokens": 1024, "batch_size": 4}, unit_lr={"update_every": 10, "probe_tokens": 1024},
                  train={"max_steps": 25, "eval_steps": 5})  # fmt: skip
    process, planned = plan(texts, path, "--gpu", tmp_path / "own.json")
    stages = planned["measuring"]
    expected = {  # times, tokens, operations of a token; the copy is assumed after layer 0
        "baseline": (1, 2048, flops(forward=4, heads=1)),
        "probe": (1, 2048, probe_flops),
        "unit importance": (3, 1024, flops(forward=5, frozen=3, trained=1, heads_with_gradient=1)),
        "eval in training": (4, 2048, flops(forward=5, heads=1)),
        "eval": (1, 2048, flops(forward=5, heads=1)),
        "copies": (1, 1024, flops(forward=5 + 3, heads=2)),
    }  # fmt: skip
    assert list(stages) == list(expected)
    for name, (times, tokens, of_token) in expected.items():
        stage = stages[name]
        assert (stage["times"], stage["tokens"]) == (times, tokens), name
        assert stage["flops"] == pytest.approx(tokens * of_token, rel=1e-6), name
        assert stage["seconds"] == pytest.approx(tokens * of_token / 0.5e12, rel=1e-6), name
    total = 25 * planned["seconds_per_step"] + sum(stage["times"] * stage["seconds"] for stage in stages.values())
    assert planned["hours"] == pytest.approx(total / 3600)
    for line in ("unit importance 3 x 1,024 tokens: ", "eval in training 4 x 2,048 tokens: ", "  total "):
        assert line in process.stdout, line
    two = plan(texts, path, "--gpu", tmp_path / "own.json", "--gpus", 2)[1]["measuring"]
    for name in ("baseline", "eval"):  # two batches
        assert two[name]["seconds"] == pytest.approx(stages[name]["seconds"] / 2), name
    assert two["copies"]["seconds"] == stages["copies"]["seconds"], "a batch is not divided"
    four = plan(texts, path, "--gpu", tmp_path / "own.json", "--gpus", 4)[1]["measuring"]["probe"]["seconds"]
    if probe.get("method") == "block_influence":
        assert four == two["probe"]["seconds"]
    else:
        assert four < 0.8 * two["probe"]["seconds"], "a batch is divided by layers or sequences"


def test_ranks_divide_each_evaluation_set_by_itself(texts, tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({"base": "h100", "price_per_hour": 1}))
    sets = [{"name": f"held-out-{i}", "path": "general.jsonl"} for i in range(4)]
    train = [{"name": "domain", "path": "domain.jsonl", "weight": 1}]
    path = config(texts, tmp_path / "run", expand={"after": [1]}, eval={"max_tokens": 256, "batch_size": 8},
                  unit_lr={"policy": "uniform"}, data={"train": train, "eval": sets})  # fmt: skip
    one, four = (plan(texts, path, "--gpu", tmp_path / "own.json", "--gpus", n)[1]["measuring"] for n in (1, 4))
    for name in ("baseline", "eval"):  # each set has one batch
        assert four[name]["seconds"] == pytest.approx(one[name]["seconds"]), name


def test_the_stages_that_are_timed_are_those_of_a_run(texts, tmp_path):
    general = {"name": "general", "path": "general.jsonl"}
    path = config(texts, tmp_path / "run", expand={"num_layers": 1}, train={"max_steps": 3, "eval_steps": 1, "batch_size": 2},
                  data={"train": [{"name": "domain", "path": "domain.jsonl", "weight": 1}], "general": [general],
                        "eval": [{**general, "name": "held-out"}]})  # fmt: skip
    _, planned = plan(texts, path)
    run = run_program("adept", "run", path, cwd=texts)
    stages = json.loads((tmp_path / "run" / "all_results.json").read_text())
    for name in ("baseline", "probe", "eval", "copies"):
        assert planned["measuring"][name]["seconds"] > 0 and f"memory_bytes_{name}" in stages, name
    assert planned["measuring"]["eval in training"]["times"] == run.stderr.count("step 1, held-out") + run.stderr.count("step 2, held-out")

"""What a configuration says is checked against files, model and text before anything is computed: all at once, and a
start that fails leaves nothing."""

import json
import shutil

import pytest
import text_models
from conftest import run_program, says
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = text_models.make_inputs(tmp_path_factory.mktemp("preflight"))
    text_models.write_jsonl(folder / "other.jsonl", text_models.sentences("domain", 150))
    (folder / "short.jsonl").write_text('{"text":"a"}\n')
    (folder / "single.jsonl").write_text('{"text":"a"}\n' * 100)
    (folder / "bad.jsonl").write_text("not json\n")
    (folder / "file").write_text("")
    return folder


def config(**changes):
    return dict(
        model="base", output_dir="runs/deep/run", threads=1, seq_len=16,
        data={"train": [{"name": "t", "path": "other.jsonl"}], "general": [{"name": "g", "path": "text.jsonl"}]},
        expand={"num_layers": 2}, train={"batch_size": 2},
    ) | changes  # fmt: skip


def sources(**paths):
    return {part: [{"name": f"{part}-{i}", "path": path} for i, path in enumerate(names)] for part, names in paths.items()}


def start(command, inputs, tmp_path, **changes):
    """The exit code and the error of a start in `inputs`, of which nothing may be left."""
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config(**changes)))
    before = sorted(inputs.rglob("*"))
    process = run_program("adept", command, path, cwd=inputs, check=False)
    left = [file for file in sorted(inputs.rglob("*")) if file not in before]
    assert not left, left
    assert process.stdout == "" or process.returncode == 0
    return process.returncode, process.stderr.partition("error: ")[2], process.stderr


@pytest.mark.parametrize("command", ["config", "run", "train"])
def test_all_paths_are_checked_at_once(inputs, tmp_path, command):
    changes = dict(
        model="nowhere", output_dir="file/run",
        data=sources(train=["other.jsonl", "none.jsonl"], replay=["gone/"], general=["*.txt"], eval=["file", "text.jsonl"]),
    )  # fmt: skip
    code, error, log = start(command, inputs, tmp_path, **changes)
    assert code == 2
    for message in (
        "model: nowhere: ...neither a folder nor in the ...cache",
        'data.train.1: source "train-1": its text cannot be read', "none.jsonl: does not exist",
        'data.replay.0: source "replay-0"', "gone/: does not exist",
        'data.general.0: source "general-0"', "*.txt: contains or matches no file of text",
        'data.eval.0: source "eval-0"', "file: is a file without extension",
        "output_dir: file/run ...Not a directory",
    ):  # fmt: skip
        assert says(error, message), error
    assert "train-0" not in error and "eval-1" not in error and "tokenize" not in log


@pytest.mark.parametrize("command", ["config", "run"])
def test_the_model_is_checked_with_the_paths(inputs, tmp_path, command):
    code, error, _ = start(command, inputs, tmp_path, expand={"num_layers": 9}, unit_lr={"ffn_block_size": 10**6}, data=sources(train=["x.txt"], general=["text.jsonl"]))
    assert code == 2
    assert says(error, "expand.num_layers: found 9; expected at most 3...base")
    assert "unit_lr.ffn_block_size: found 1000000" in error and "x.txt: does not exist" in error


@pytest.mark.parametrize("command", ["config", "run"])
def test_weights_that_do_not_fit_the_model_are_named_before_any_text_is_read(inputs, tmp_path, command):
    shutil.copytree(inputs / "base", tmp_path / "bad")
    tensors = load_file(tmp_path / "bad" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    code, error, log = start(command, inputs, tmp_path, model=str(tmp_path / "bad"), data=sources(train=["x.txt"], general=["text.jsonl"]))
    assert code == 2 and "x.txt: does not exist" in error
    assert "bad" in error and "model.layers.1.mlp.up_proj.weight" in error and "tokenize" not in log


def test_a_model_without_eos_is_told_with_the_paths(inputs, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(inputs / "base", model)
    for name, key in (("tokenizer_config.json", "eos_token"), ("config.json", "eos_token_id"), ("generation_config.json", "eos_token_id")):
        if (model / name).exists():
            kept = {k: v for k, v in json.loads((model / name).read_text()).items() if k != key}
            (model / name).write_text(json.dumps(kept))
    for command in ("config", "run", "train"):
        _, error, _ = start(command, inputs, tmp_path, model=str(model), data=sources(train=["x.txt"], general=["text.jsonl"]))
        assert says(error, "no EOS token; expected eos_token in tokenizer_config.json") and "x.txt: does not exist" in error


def test_an_unknown_tracker_is_told_with_the_paths(inputs, tmp_path):
    code, error, _ = start("config", inputs, tmp_path, model="nowhere", train={"batch_size": 2, "report_to": ["tensorboard", "wandb"]})
    assert code == 2
    assert 'train.report_to: found "wandb"; expected tensorboard' in error and "model: nowhere: " in error


@pytest.mark.parametrize("pattern", ["*.jsonl", "**/*.jsonl", "[p-t]*.jsonl"])
def test_no_run_writes_records_where_a_glob_reads_them(inputs, tmp_path, pattern):
    _, error, _ = start("run", inputs, tmp_path, output_dir=".", data=sources(train=[pattern], general=["text.jsonl"]))
    assert says(error, f"output_dir .: ...trainer_log.jsonl...{pattern}...input of the source")


def test_a_good_configuration_is_printed_and_makes_nothing(inputs, tmp_path):
    code, _, log = start("config", inputs, tmp_path, train={"batch_size": 2, "replay_ratio": 0})
    assert code == 0 and log == ""


EPOCHS = [  # what is derived from epochs is refused as what is given; the text has fewer than 200 steps of 32 tokens
    (dict(train={"warmup_steps": 200}), "train.warmup_steps: found 200; expected at most ...train.num_train_epochs"),
    (dict(train={"warmup_steps": 5, "lr_scheduler": "wsd", "decay_ratio": 0.999}), "train.decay_ratio: found 0.999; expected ...at most 1"),
    (dict(train={"num_train_epochs": 1e6, "grad_accum": 1, "batch_size": 1}, seq_len=2), "train.num_train_epochs: amounts to "),
    (dict(train={"num_train_epochs": 2}, data=sources(general=["text.jsonl"]) | {"train": [{"name": "t", "path": "other.jsonl", "epochs": 1}]}),
     'train.num_train_epochs: ...2...source "t" (epochs, max_tokens)...1; expected at most'),
    (dict(expand={"strategy": "gain_per_cost", "num_layers": 1}, data=sources(train=["short.jsonl", "other.jsonl"], general=["text.jsonl"])),
     "train-0: found 1 tokens...; expected ...seq_len"),
    (dict(eval={"packed": True}, data=sources(train=["other.jsonl"], general=["text.jsonl"], eval=["single.jsonl"])),
     "eval-0: found no token to predict"),
]  # fmt: skip


@pytest.mark.parametrize("changes, message", EPOCHS)
def test_what_follows_from_the_data_is_checked_before_anything_is_computed(inputs, tmp_path, changes, message):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config(output_dir=str(tmp_path / "run"), **changes)))
    process = run_program("adept", "run", path, cwd=inputs, check=False)
    assert process.returncode in (1, 2) and says(process.stderr.partition("error: ")[2], message), process.stderr
    assert "probe " not in process.stderr and not (tmp_path / "run" / "config.yaml").exists()


def test_all_that_follows_from_the_data_is_told_at_once(inputs, tmp_path):
    path = tmp_path / "run.yaml"
    data = sources(train=["other.jsonl"], general=["text.jsonl", "short.jsonl"], eval=["short.jsonl", "other.jsonl"])
    path.write_text(json.dumps(config(output_dir=str(tmp_path / "run"), data=data, train={"warmup_steps": 10**6})))
    error = run_program("adept", "run", path, cwd=inputs, check=False).stderr.partition("error: ")[2]
    assert [line.partition(":")[0] for line in error.splitlines()] == ["train.warmup_steps", "general-1", "eval-0"]


def test_shares_and_steps_that_do_not_fit_the_text_are_warned_of(inputs, tmp_path):
    path = tmp_path / "run.yaml"
    data = sources(train=["other.jsonl", "text.jsonl"], general=["text.jsonl"])
    data["train"][0]["weight"], data["train"][1]["weight"] = 1, 1e-6
    train = {"max_steps": 1, "batch_size": 1000}
    path.write_text(json.dumps(config(output_dir=str(tmp_path / "run"), data=data, train=train, method="full")))
    log = run_program("adept", "run", path, cwd=inputs).stderr
    assert says(log, 'data.train: ...source "train-1" ...0.0001 % of 1000 sequences')
    assert says(log, "train.batch_size * train.grad_accum: ...1000 sequences...training text has only ")


def test_a_budget_without_layers_is_refused_before_the_probe(inputs, tmp_path):
    code, error, _ = start("run", inputs, tmp_path, expand={"trainable": "90%", "exclude": [0, 1, 2]})
    assert code == 2
    assert says(error, "expand.trainable: found 1; expected at most 0...base minus ...expand.exclude")


def test_a_start_that_fails_leaves_no_empty_folder(inputs, tmp_path):
    code, error, _ = start("run", inputs, tmp_path, data=sources(train=["bad.jsonl"], general=["text.jsonl"]))
    assert code == 1 and "bad.jsonl:1: " in error


def test_a_folder_that_was_there_stays(inputs, tmp_path):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config(output_dir=str(tmp_path / "run"), data=sources(train=["bad.jsonl"], general=["text.jsonl"]))))
    assert run_program("adept", "run", path, cwd=inputs, check=False).returncode == 1
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("name", ["config.yaml", "trainer_log.jsonl", "importance.json", "all_results.json"])
@pytest.mark.parametrize("command", ["config", "run", "train"])
def test_files_of_somebody_else_are_not_overwritten(inputs, tmp_path, command, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    code, error, _ = start(command, inputs, tmp_path, output_dir=str(tmp_path / "mine"))
    assert code == 2 and says(error, f"output_dir: {tmp_path}/mine/{name} exists but ...not the result of a run")
    assert [(f.name, f.read_text()) for f in (tmp_path / "mine").iterdir()] == [(name, "mine")]


def test_dropout_in_the_model_is_ignored_with_a_warning_where_it_would_train(inputs, tmp_path):
    shutil.copytree(inputs / "base", tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_dropout": 0.1, "auto_map": {"AutoModel": "x.Y"}}))
    warning = "base/config.json: attention_dropout 0.1: ignored...without dropout"
    code, _, log = start("config", inputs, tmp_path, model=str(tmp_path / "base"))
    assert code == 0 and says(log, warning)
    score = ("eval", "--model", tmp_path / "base", "--data", inputs / "text.jsonl")
    assert "attention_dropout" not in run_program("adept", *score).stderr

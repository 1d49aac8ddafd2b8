"""A finished run of `adept run`, and what its tests look at."""

import gzip
import json
import shutil

import pytest
import text_models
import torch
from conftest import run_program

STAGES = ["baseline", "probe", "expand", "train", "eval", "copies"]


def base_config(**changes):
    """Paths are relative to the working directory, as users write them."""
    config = dict(
        model="base",
        output_dir="out",
        threads=1,
        dtype="fp32",
        seq_len=48,
        data={
            "train": [
                {"name": "domain", "path": ["notes", "more.txt.gz"], "weight": 0.8, "txt_record": "line"},
                {"name": "replay", "path": "general.jsonl.gz", "weight": 0.2, "text_field": "body"},
            ],
            "general": [{"name": "probe", "path": "probe-*.jsonl"}],
            "eval": [
                {"name": "held-general", "path": "held.txt", "role": "general", "txt_record": "paragraph"},
                {"name": "held-domain", "path": "domain.jsonl", "role": "domain"},
            ],
        },
        probe={"max_tokens": 1000},
        expand={"num_layers": 2},
        train={"max_steps": 6, "logging_steps": 2, "eval_steps": 3, "save_steps": 2, "learning_rate": 1e-3},
        unit_lr={"update_every": 1, "probe_tokens": 500},
        eval={"max_tokens": 600},
    )
    return {**config, **changes}


def make_inputs(folder):
    """A sharded bf16 model, and text of every kind that is read."""
    text_models.save("llama_tied", folder / "base", dtype=torch.bfloat16, max_shard_size="60KB")
    (folder / "notes" / "deep").mkdir(parents=True)
    (folder / "notes" / "a.txt").write_text("\n".join(text_models.sentences("domain", 20)).replace("\r", ""))
    text_models.write_jsonl(folder / "notes" / "deep" / "b.jsonl", text_models.sentences("domain", 20, seed=1))
    (folder / "notes" / "picture.png").write_bytes(b"\x89PNG")  # is no text; it is counted and left out
    with gzip.open(folder / "more.txt.gz", "wt") as file:
        file.write("one line of renal text\n\nanother line of renal text\n")
    with gzip.open(folder / "general.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"body": text}) + "\n" for text in text_models.sentences("general", 20))
    for i in range(2):
        text_models.write_jsonl(folder / f"probe-{i}.jsonl", text_models.sentences("general", 10, seed=10 + i))
    (folder / "held.txt").write_text("\n\n".join(text_models.sentences("general", 10, seed=20)))
    text_models.write_jsonl(folder / "domain.jsonl", text_models.sentences("domain", 20, seed=30))


def run(folder, *arguments, config=None, check=True, **options):
    if config is not None:
        (folder / "run.yaml").write_text(json.dumps(config, indent=1))
    return run_program("adept", "run", "run.yaml", *arguments, cwd=folder, check=check, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_inputs(folder)
    return folder, run(folder, config=base_config())


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def kept(process):
    return [line.split()[0] for line in process.stderr.splitlines() if line.endswith("unchanged, kept")]


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def table(process):
    """The printed table but for time and memory, which are those of this call too."""
    return [line for line in process.stdout.splitlines() if not line.startswith(("  time ", "  peak memory "))]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]

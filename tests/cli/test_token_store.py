"""Token stores: `adept tokenize --out`, killed and continued, checked, and used by runs."""

import fcntl
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import text_models
from conftest import BUILD, run_program

TEXTS = text_models.sentences("domain", 40)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    text_models.save("llama_tied", folder / "base")
    text_models.write_jsonl(folder / "text.jsonl", TEXTS)
    return folder


def adept(folder, *arguments, check=True, **options):
    return run_program("adept", *arguments, cwd=folder, check=check, **options)


def tokenize(folder, *arguments, **options):
    return adept(folder, "tokenize", "--model", "base", *arguments, **options)


def error_of(process, code):
    assert process.returncode == code, process.stderr
    return process.stderr.rpartition("error: ")[2]


def ids_of(folder, path):
    return [json.loads(line) for line in tokenize(folder, "--data", path).stdout.splitlines()]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_holds_the_ids_of_the_text_and_says_what_it_is_of(folder):
    process = tokenize(folder, "--data", "text.jsonl", "--out", "store")
    assert re.search(r"^tokenize   text  .*  [\d.]+ [kM]B/s  [\d,]+ tok/s", process.stderr, re.M), process.stderr
    assert re.search(rf"^text +1 +{len(TEXTS)} ", process.stderr, re.M), process.stderr
    assert sorted(files_of(folder / "store")) == ["00000.tokens", "store.json"]
    assert ids_of(folder, "store") == ids_of(folder, "text.jsonl") == [text_models.encode(text) for text in TEXTS]
    record = json.loads((folder / "store" / "store.json").read_text())
    assert (record["bytes_per_id"], record["eos"], record["counts"]["documents"]) == (2, text_models.EOS, len(TEXTS))
    again = tokenize(folder, "--data", "text.jsonl", "--out", "store", "--verify")
    assert "tok/s" not in re.sub("^verify.*", "", again.stderr, flags=re.M), "it is there"


def test_skipped_records_are_listed_beside_a_store(folder):
    (folder / "bad.jsonl").write_text('{"text": "the river"}\nbad\n{"text": 3}\n')
    assert "bad.jsonl:2: invalid JSON" in error_of(tokenize(folder, "--data", "bad.jsonl", "--out", "store", check=False), 1)
    assert not (folder / "store").exists()
    tokenize(folder, "--data", "bad.jsonl", "--out", "store", "--on-bad-record", "skip")
    lines = [json.loads(line) for line in (folder / "store" / "skipped.jsonl").read_text().splitlines()]
    assert [line["where"] for line in lines] == ["bad.jsonl:2", "bad.jsonl:3"]
    (folder / "good.jsonl").write_text('{"text": "the river"}\n')
    tokenize(folder, "--data", "good.jsonl", "--out", "store", "--force")
    assert not (folder / "store" / "skipped.jsonl").exists()


# ------------------------------------------------------------------------------------------------- killed, and waited for


@pytest.fixture(scope="module")
def large(inputs):
    """Files of several kinds, with bad records, that fill some dozens of small shards."""
    (inputs / "large").mkdir()
    for i in range(3):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in text_models.sentences("general", 1500, seed=i)) + "bad\n\n"
        with gzip.open(inputs / "large" / f"{i}.jsonl.gz", "wt") as file:
            file.write(lines)
    (inputs / "large" / "3.txt").write_text(" ".join(text_models.sentences("domain", 500)))
    return inputs


LARGE = ["--data", "large", "--on-bad-record", "skip", "--shard-bytes", 6000]


def start(folder, *arguments):
    command = [BUILD / "adept", "tokenize", "--model", "base", *arguments]
    return subprocess.Popen([*map(str, command)], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, "too late"
        time.sleep(0.0005)


def test_a_call_that_is_killed_goes_on_and_writes_the_same_bytes(large, tmp_path):
    tokenize(large, *LARGE, "--out", tmp_path / "whole")
    expected = files_of(tmp_path / "whole")
    assert len(expected) > 20
    kills = 0
    for shard in range(1, len(expected) - 4, 4):
        process = start(large, *LARGE, "--out", tmp_path / "store")
        try:
            wait_for((tmp_path / "store" / f"{shard:05}.tokens").exists, process)
            process.kill()
        except AssertionError:
            assert process.poll() == 0  # it was faster
        kills += process.wait() == -signal.SIGKILL
    last = tokenize(large, *LARGE, "--out", tmp_path / "store")
    assert kills >= 3
    if "going on after" in last.stderr:  # else the last call that was to be killed was faster
        assert int(re.search(r"going on after (\d+) finished shards", last.stderr)[1]) >= shard
    else:
        assert process.returncode == 0
    assert files_of(tmp_path / "store") == expected


def test_an_interrupt_says_that_the_same_command_goes_on(large, tmp_path):
    process = start(large, *LARGE, "--out", tmp_path / "store")
    wait_for((tmp_path / "store" / "00001.tokens").exists, process)
    process.send_signal(signal.SIGINT)
    messages = process.communicate()[1]
    assert process.returncode == 130, messages
    assert f"finished shards are kept in {tmp_path}/store" in messages
    assert not list((tmp_path / "store").glob(".*.tmp-*"))
    assert "going on after" in tokenize(large, *LARGE, "--out", tmp_path / "store").stderr


def test_a_second_process_waits_for_the_first_and_uses_its_store(large, tmp_path):
    first = start(large, *LARGE, "--out", tmp_path / "store")
    wait_for((tmp_path / "store" / "00001.tokens").exists, first)
    first.send_signal(signal.SIGSTOP)
    others = [start(large, *LARGE, "--out", tmp_path / "store") for _ in range(2)]
    for other in others:
        assert f"{tmp_path}/store: waiting for process {first.pid}" in other.stderr.readline()
    others[0].send_signal(signal.SIGINT)
    assert others[0].wait(10) == 130, "the wait ends"
    first.send_signal(signal.SIGCONT)
    rest = others[1].communicate()[1]
    assert first.wait() == others[1].returncode == 0
    assert "tok/s" not in rest and "finished shards" not in rest, rest
    assert not (tmp_path / "store" / ".lock").exists()


# --------------------------------------------------------------------------------------------------- checks and refusals


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_is_found_where_it_is_read_and_by_verify(folder):
    tokenize(folder, "--data", "text.jsonl", "--out", "store")
    flip(folder / "store" / "00000.tokens", 20)
    error = error_of(tokenize(folder, "--data", "store", check=False), 1)
    assert "store/00000.tokens: block 0, ids 0 to" in error and "Delete the folder store and tokenize again" in error
    same = tokenize(folder, "--data", "text.jsonl", "--out", "store")
    assert "warning" not in same.stderr, "a start reads no ids"
    error = error_of(tokenize(folder, "--data", "text.jsonl", "--out", "store", "--verify", check=False), 1)
    assert "store/00000.tokens: block 0" in error
    (folder / "store" / "store.json").write_text("{")
    assert "store/store.json" in error_of(tokenize(folder, "--data", "text.jsonl", "--out", "store", check=False), 1)
    forced = tokenize(folder, "--data", "text.jsonl", "--out", "store", "--force")
    assert "store.json" in forced.stderr and "Tokenizing again." in forced.stderr
    assert ids_of(folder, "store") == ids_of(folder, "text.jsonl")


def test_verify_notices_text_that_changed_behind_its_size_and_time(folder):
    path = folder / "long.txt"
    path.write_text("the river " * 20_000)
    tokenize(folder, "--data", "long.txt", "--out", "store", "--verify")
    before = path.stat()
    text = bytearray(path.read_bytes())
    text[6000:6003] = b"THE"
    path.write_bytes(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "warning" not in tokenize(folder, "--data", "long.txt", "--out", "store").stderr
    error = error_of(tokenize(folder, "--data", "long.txt", "--out", "store", "--verify", check=False), 1)
    assert 'was made of other text than source "long" has now' in error and error.count("xxh3:") == 2
    forced = tokenize(folder, "--data", "long.txt", "--out", "store", "--verify", "--force")
    assert "was made of other text" in forced.stderr and "Tokenizing again." in forced.stderr
    assert ids_of(folder, "store") == ids_of(folder, "long.txt")


def test_a_store_of_other_text_is_replaced_on_request_only(folder):
    tokenize(folder, "--data", "text.jsonl", "--out", "store")
    before = files_of(folder / "store")
    text_models.write_jsonl(folder / "other.jsonl", TEXTS[:3])
    error = error_of(tokenize(folder, "--data", "other.jsonl", "--out", "store", check=False), 2)
    assert "store: contains a token store of other inputs. What differs: the text" in error and "--force" in error
    assert files_of(folder / "store") == before
    assert "what changed: the text" in tokenize(folder, "--data", "other.jsonl", "--out", "store", "--force").stderr
    assert len(ids_of(folder, "store")) == 3
    (folder / "full").mkdir()
    (folder / "full" / "notes").write_text("mine")
    assert "full: is not empty and not a token store (it contains notes)" in error_of(
        tokenize(folder, "--data", "text.jsonl", "--out", "full", check=False), 1)  # fmt: skip


REFUSALS = {
    "no --out": (["--data", "text.jsonl", "--out-format", "store"], "--out-format store: found no --out; expected --out and --data"),
    "text": (["--text", "a", "--out", "new", "--out-format", "megatron"], "--out-format megatron: found --text"),
    "two sources": (["--data", "text.jsonl", "--data", "base/tokenizer.json", "--out", "new"], "found 2 sources; expected one"),
    "unknown": (["--data", "text.jsonl", "--out-format", "npy"], 'found "npy"; expected one of jsonl, store, megatron'),
    "verify lines": (["--data", "text.jsonl", "--verify"], "--verify: found together with --out-format jsonl"),
    "its input": (["--data", "text.jsonl", "--out", "text.jsonl/store"], "text.jsonl"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_options_that_do_not_fit_are_refused(case, inputs):
    arguments, message = REFUSALS[case]
    process = tokenize(inputs, *arguments, check=False)
    assert process.returncode in (1, 2) and message in process.stderr, process.stderr
    assert not (inputs / "new").exists()


def test_a_store_inside_a_folder_of_text_is_no_text(folder):
    (folder / "texts").mkdir()
    shutil.copy(folder / "text.jsonl", folder / "texts")
    tokenize(folder, "--data", "texts", "--out", "texts/store")
    again = tokenize(folder, "--data", "texts", "--out", "texts/store")
    assert "ignored 1 (1 token store)" in tokenize(folder, "--data", "texts").stderr
    assert "error" not in again.stderr


# --------------------------------------------------------------------------------------------------------------- in runs


def config(path, **changes):
    return {"model": "base", "output_dir": "out", "threads": 1, "dtype": "fp32", "seq_len": 32, "method": "full",
            "data": {"train": [{"name": "domain", "path": path, **changes}]},
            "train": {"max_steps": 3, "logging_steps": 1, "batch_size": 2, "learning_rate": 1e-3}}  # fmt: skip


def losses(folder, settings, out="out", check=True, **options):
    (folder / "run.yaml").write_text(json.dumps({**settings, "output_dir": str(out)}))
    process = adept(folder, "run", "run.yaml", check=check, **options)
    if not check:
        return process
    log = (folder / out / "trainer_log.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]


def sharing(tmp_path):
    return {**os.environ, "ADEPT_RESULT_CACHE": "on", "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_a_run_trains_on_a_store_as_on_its_text(folder):
    tokenize(folder, "--data", "text.jsonl", "--out", "store")
    expected = losses(folder, config("text.jsonl"), "a")
    assert (folder / "a" / "data" / "domain.tokens" / "store.json").is_file()
    assert len(expected) == 3 and losses(folder, config("store"), "b") == expected
    assert not (folder / "b" / "data" / "domain.tokens").exists(), "it is used where it is"
    assert "found text_field" in losses(folder, config("store", text_field="body"), "c", check=False).stderr
    shown = adept(folder, "eval", "--model", "base", "--data", "text=store").stdout
    assert shown == adept(folder, "eval", "--model", "base", "--data", "text=text.jsonl").stdout


def test_runs_of_the_same_text_share_a_store_in_the_cache(folder, tmp_path):
    environment = sharing(tmp_path)
    expected = losses(folder, config("text.jsonl"), "a", env=environment)
    link = folder / "a" / "data" / "domain.tokens"
    assert link.is_symlink() and link.resolve().parent == tmp_path / "cache" / "adept" / "tokens"
    second = losses(folder, {**config("text.jsonl"), "seed": 7}, "b", env=environment, check=False)
    assert second.returncode == 0 and not re.search("^tokenize ", second.stderr, re.M)
    assert (folder / "b" / "data" / "domain.tokens").resolve() == link.resolve()
    os.utime(folder / "text.jsonl")
    again = losses(folder, config("text.jsonl"), "a", env=environment, check=False)
    assert re.search("^tokenize ", again.stderr, re.M), "the file may have changed"
    assert re.search("train.*unchanged, kept", again.stderr), "but it did not, and no later stage is repeated"
    assert expected


def test_the_cache_of_stores_has_a_limit_and_keeps_those_in_use(folder, tmp_path):
    environment = {**sharing(tmp_path), "ADEPT_TOKEN_CACHE_GB": "0.000001"}
    cache = tmp_path / "cache" / "adept" / "tokens"
    losses(folder, config("text.jsonl"), "a", env=environment)
    (first,) = cache.iterdir()
    text_models.write_jsonl(folder / "other.jsonl", TEXTS[:20])
    with (first / "store.json").open() as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        losses(folder, config("other.jsonl"), "b", env=environment)
        assert len(list(cache.iterdir())) == 2, "a process uses the first one"
    text_models.write_jsonl(folder / "third.jsonl", TEXTS[:10])
    third = losses(folder, config("third.jsonl"), "c", env=environment, check=False)
    assert third.returncode == 0 and f"{first}: removed, because " in third.stderr
    assert len(list(cache.iterdir())) == 1, "its own, though it is above the limit"
    assert len(losses(folder, {**config("text.jsonl"), "seed": 7}, "a2", env=environment)) == 3
    wrong = losses(folder, config("text.jsonl"), "d", env={**environment, "ADEPT_TOKEN_CACHE_GB": "much"}, check=False)
    assert 'ADEPT_TOKEN_CACHE_GB: found "much"; expected a number of gigabytes' in error_of(wrong, 2)


def test_runs_that_start_together_tokenize_once(folder, tmp_path):
    processes = []
    for out in ("a", "b", "c"):
        (folder / f"{out}.yaml").write_text(json.dumps({**config("text.jsonl"), "output_dir": out}))
        processes.append(subprocess.Popen([BUILD / "adept", "run", f"{out}.yaml"], cwd=folder, env=sharing(tmp_path),
                                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))  # fmt: skip
    messages = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], messages
    assert len(re.findall("^tokenize ", "".join(messages), re.M)) == 1
    assert len(list((tmp_path / "cache" / "adept" / "tokens").iterdir())) == 1


def test_a_run_checks_everything_on_request(folder):
    expected = losses(folder, config("text.jsonl"), "a")
    flip(folder / "a" / "data" / "domain.tokens" / "00000.tokens", 20)
    settings = {**config("text.jsonl"), "output_dir": "a"}
    (folder / "run.yaml").write_text(json.dumps(settings))
    assert adept(folder, "run", "run.yaml").returncode == 0, "all stages are kept, so no token is read"
    messages = adept(folder, "run", "run.yaml", "--verify").stderr
    assert "a/data/domain.tokens/00000.tokens: block 0" in messages and "Tokenizing again." in messages
    assert losses(folder, config("text.jsonl"), "b") == expected


def test_a_damaged_store_of_a_run_is_made_again_by_the_next_call(folder, tmp_path):
    environment = sharing(tmp_path)
    losses(folder, config("text.jsonl"), "a", env=environment)
    flip((folder / "a" / "data" / "domain.tokens").resolve() / "00000.tokens", 20)
    other = {**config("text.jsonl"), "seed": 7}
    error = error_of(losses(folder, other, "b", env=environment, check=False), 1)
    assert "00000.tokens: block 0" in error and "is discarded: repeat the command" in error
    assert len(losses(folder, other, "b", env=environment)) == 3


def test_a_run_reads_piped_text(folder):
    expected = losses(folder, config("text.jsonl"), "a")
    (folder / "run.yaml").write_text(json.dumps({**config("-"), "output_dir": "b"}))
    piped = subprocess.run([BUILD / "adept", "run", "run.yaml"], cwd=folder, input=(folder / "text.jsonl").read_bytes(), capture_output=True)
    assert piped.returncode == 0, piped.stderr
    log = (folder / "b" / "trainer_log.jsonl").read_text().splitlines()
    assert [entry["loss"] for entry in map(json.loads, log) if "loss" in entry] == expected


def test_a_cache_that_cannot_be_written_is_not_used(folder):
    (folder / "no-cache").write_text("a file")
    environment = {**os.environ, "ADEPT_RESULT_CACHE": "on", "XDG_CACHE_HOME": str(folder / "no-cache")}
    process = losses(folder, config("text.jsonl"), env=environment, check=False)
    assert process.returncode == 0 and "no-cache/adept/tokens: cannot be written" in process.stderr
    assert not (folder / "out" / "data" / "domain.tokens").is_symlink()


def changed_model(folder, name, change):
    model = shutil.copytree(folder / "base", folder / name)
    change(model)
    return name


def other_vocabulary(model):
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def set_in_files(model, files, **values):
    for file in files:
        if (model / file).exists():
            (model / file).write_text(json.dumps({**json.loads((model / file).read_text()), **values}))


def other_first_eos(model):
    """As an instruct model beside its base: both tokens end a text."""
    set_in_files(model, ("tokenizer_config.json", "special_tokens_map.json"), eos_token="<s>")
    set_in_files(model, ("config.json", "generation_config.json"), eos_token_id=[1, 2])


def other_eos(model):
    set_in_files(model, ("tokenizer_config.json", "special_tokens_map.json"), eos_token="<s>")
    set_in_files(model, ("config.json", "generation_config.json"), eos_token_id=1)


@pytest.mark.parametrize("change, message", [(other_vocabulary, "the vocabulary of this token store is xxh3:"),
                                             (other_eos, 'the EOS token of this token store is 2 ("</s>"), but that of the model 1 ("<s>")')])  # fmt: skip
def test_a_store_of_another_tokenizer_is_refused(folder, change, message):
    tokenize(folder, "--data", "text.jsonl", "--out", "store")
    changed_model(folder, "other", change)
    process = losses(folder, {**config("store"), "model": "other"}, check=False)
    assert "store: " + message in error_of(process, 1)


def test_a_store_is_used_by_a_model_with_another_end_token_of_the_same_vocabulary(folder):
    tokenize(folder, "--data", "text.jsonl", "--out", "store")
    changed_model(folder, "instruct", other_first_eos)
    assert losses(folder, {**config("store"), "model": "instruct"}, "a") == losses(folder, {**config("text.jsonl"), "model": "instruct"}, "b")

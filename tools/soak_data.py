#!/usr/bin/env python3
"""Puts the data pipeline under load: a large corpus of mixed formats, kills at random places, bounded memory.

    tools/soak_data.py [--size 5GB] [--text DIR] [--work DIR] [--report FILE] [--seed N] [--kills N] [--keep]

1. The corpus: --size of text in .jsonl.gz, .jsonl, .parquet and .txt files. It repeats the documents of
   DIR/*train.jsonl.gz (default: ../shared/data; made-up sentences where that is absent), each behind another number, so no two
   are equal.
2. `adept tokenize` builds a token store twice: once in one go, and once killed (SIGKILL) --kills times (10) at random sizes of
   the store and called again. Both stores must have the same bytes.
3. `adept run` trains a tiny model for 50 steps on the store, which is not in the system's file cache, and on a small source
   whose first epoch ends about halfway. Again twice: once in one go, and once killed shortly before and shortly after the end
   of that epoch. The loss of every step (of all text and of each source) must have the same digits, and the trained weights the
   same bytes.

The peak memory of each part (VmHWM, and RssAnon: without mapped files) must stay below the bounds at the top of this file, which
do not grow with the corpus, except for a few bytes per document and sequence.

Prints a table and writes it as JSON to FILE (default: soak_data.json in the work folder's parent). Exits with 0 if everything
holds, else with 1 and a list of what differs. The work folder (default: .cache/soak) takes about 2.5 times --size; it is
removed at the end, except with --keep. Nothing else is written: caches are in it. The program is that of $ADEPT_BUILD (default:
build/release).
"""

import argparse
import contextlib
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pyarrow
import pyarrow.parquet

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import text_models  # noqa: E402
import tokenizers  # noqa: E402

MB = 10**6
UNITS = {"kB": 10**3, "MB": MB, "GB": 10**9}
FORMATS = ("jsonl.gz", "jsonl", "parquet", "txt")
VOCABULARY = 4096
STEPS, SEQ_LEN, BATCH = 50, 256, 2
SAVE_STEPS = 4
SMALL_SHARE = 0.5  # of the small source in the training
EPOCH_END = STEPS // 2  # the step at which the first epoch of the small source ends, about

# Bounds of memory: without mapped files, and with them (libraries, what is read of the store).
TOKENIZE_BOUND = {"RssAnon": 400 * MB, "VmHWM": 600 * MB}  # at most 64 MiB of text, and its ids
TRAIN_BOUND = {"RssAnon": 400 * MB, "VmHWM": 600 * MB}
BYTES_PER_DOCUMENT, BYTES_PER_SEQUENCE = 64, 48  # of the lists of both that a training makes and maps
BYTES_PER_READ = 1 << 18  # mapped pages around what a sequence reads


class Watch:
    """A started program: its peak memory while it runs, and kills."""

    def __init__(self, command, **options):
        self.begin = time.monotonic()
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
        self.peak = {"VmHWM": 0, "RssAnon": 0}
        self.errors = b""
        self.threads = [threading.Thread(target=target) for target in (self.read, self.watch)]
        for thread in self.threads:
            thread.start()

    def read(self):
        self.errors = self.process.stderr.read()

    def watch(self):
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in self.peak:
                        self.peak[name] = max(self.peak[name], int(value.split()[0]) * 1024)
            time.sleep(0.01)

    def is_running(self):
        return self.process.poll() is None

    def kill(self):
        """Whether it was still running."""
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def finish(self):
        """Waits for its end. Returns the exit code."""
        for thread in self.threads:
            thread.join()
        self.seconds = time.monotonic() - self.begin
        return self.process.wait()

    def finish_well(self):
        if self.finish() != 0:
            raise SystemExit(f"soak_data: {' '.join(map(str, self.process.args))} failed:\n{self.errors.decode(errors='replace')}")
        return self


# ------------------------------------------------------------------------------------------------------------------ corpus


def documents_of(folder):
    """The documents of real text, or made-up ones."""
    texts = []
    for path in sorted(folder.glob("*train.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                texts.append(record.get("text") or f"{record['question']}\n{record['answer']}")
    return texts or [" ".join(text_models.sentences("domain", 20, seed=seed)) for seed in range(200)]


def numbered(texts, rng):
    """The documents in random order, again and again, each behind its number."""
    for number in itertools.count():
        yield f"Document {number:x}. {texts[rng.randrange(len(texts))]}"


def write_file(path, documents):
    rows = [{"text": text} for text in documents]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1000)
    elif path.suffix == ".txt":
        path.write_text("".join(" ".join(row["text"].split()) + "\n" for row in rows), "utf-8")
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines, compresslevel=1) if path.suffix == ".gz" else lines)


def write_corpus(folder, texts, size, rng):
    """Files of all formats in turns. Returns the number of bytes of text."""
    folder.mkdir(parents=True)
    documents = numbered(texts, rng)
    file_size = min(max(size // 16, MB // 4), 64 * MB)
    total = 0
    for number in itertools.count():
        if total >= size:
            return total
        part, part_size = [], 0
        while part_size < min(file_size, size - total):
            part.append(next(documents))
            part_size += len(part[-1].encode())
        total += part_size
        write_file(folder / f"{number:05}.{FORMATS[number % len(FORMATS)]}", part)


def make_model(folder, texts, rng):
    """A tiny model whose tokenizer was made of a sample of the text."""
    text_models.transformers.utils.logging.disable_progress_bar()
    text_models.save("llama_tied", folder, vocab_size=VOCABULARY)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=text_models.SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([rng.choice(texts)[:5000] for _ in range(200)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


# ---------------------------------------------------------------------------------------------------------------- the store


def bytes_in(folder):
    total = 0
    with contextlib.suppress(OSError):  # files appear and go
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                total += entry.stat().st_size
    return total


def hashes_of(folder):
    hashes = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def higher(peaks):
    """The peaks of several processes."""
    return {name: max(peak[name] for peak in peaks) for name in peaks[0]}


def differences(what, found, expected):
    """Of two tables."""
    keys = [key for key in sorted({*found, *expected}, key=str) if found.get(key) != expected.get(key)]
    shown = ", ".join(f"{key}: {found.get(key)}, expected {expected.get(key)}" for key in keys[:5])
    return [f"{what}: {len(keys)} differ: {shown}"] if keys else []


class Soak:
    def __init__(self, options):
        self.options = options
        self.work = options.work
        self.rng = random.Random(options.seed)
        self.adept = pathlib.Path(os.environ.get("ADEPT_BUILD", ROOT / "build" / "release")) / "adept"
        self.environment = {**os.environ, "ADEPT_RESULT_CACHE": "off", "XDG_CACHE_HOME": str(self.work / "cache")}
        self.rows, self.problems, self.train_peaks = [], [], []
        self.store = {}  # what it holds

    def start(self, *arguments):
        return Watch([self.adept, *arguments], cwd=self.work, env=self.environment)

    def add_row(self, part, seconds, size=None, peak=None, kills=()):
        rate = round(size / MB / seconds, 1) if size else None
        peaks = {f"{name}_mb": round(value / MB) for name, value in (peak or {}).items()}
        self.rows.append({"part": part, "seconds": round(seconds, 1), "mb_per_second": rate, **peaks, "kills": list(kills)})

    def check_peak(self, part, peak, bounds):
        for name, bound in bounds.items():
            if peak[name] > bound:
                self.problems.append(f"{part}: {name} is {peak[name] / MB:.0f} MB; expected at most {bound / MB:.0f} MB")

    def prepare(self):
        begin = time.monotonic()
        texts = documents_of(self.options.text)
        self.work.mkdir(parents=True)
        self.size = write_corpus(self.work / "corpus", texts, self.options.size, self.rng)
        make_model(self.work / "model", texts, self.rng)
        small_tokens = EPOCH_END * BATCH * SEQ_LEN * SMALL_SHARE
        text_models.write_jsonl(self.work / "small.jsonl", self.sample(texts, small_tokens))
        self.add_row("corpus", time.monotonic() - begin, self.size)

    def sample(self, texts, num_tokens):
        """Documents with about this many tokens."""
        tokenizer = tokenizers.Tokenizer.from_file(str(self.work / "model" / "tokenizer.json"))
        documents = []
        while num_tokens > 0:
            documents.append(self.rng.choice(texts)[:1000])
            num_tokens -= len(tokenizer.encode(documents[-1]).ids) + 1
        return documents

    def tokenize(self, store):
        shard = max(1 << 16, self.options.size // 200)  # some dozens of shards
        return self.start("tokenize", "--quiet", "--model", "model", "--data", "corpus", "--txt-record", "line", "--out", store,
                          "--shard-bytes", shard)  # fmt: skip

    def build_stores(self):
        whole = self.tokenize("whole").finish_well()
        self.check_peak("tokenize", whole.peak, TOKENIZE_BOUND)
        self.add_row("tokenize", whole.seconds, self.size, whole.peak)
        size = bytes_in(self.work / "whole")
        counts = json.loads((self.work / "whole" / "store.json").read_text())["counts"]
        self.store = {"documents": counts["documents"], "tokens": counts["tokens"], "bytes": size}
        begin, kills, peaks = time.monotonic(), [], []
        for place in sorted(self.rng.uniform(0.02, 0.9) for _ in range(self.options.kills)):
            process = self.tokenize("killed")
            while process.is_running() and bytes_in(self.work / "killed") < place * size:
                time.sleep(0.002)
            time.sleep(self.rng.uniform(0, 0.01))
            was_killed = process.kill()
            process.finish()
            peaks.append(process.peak)
            if was_killed:
                shards = len(list((self.work / "killed").glob("*.tokens")))
                kills.append(f"{shards} shards, {bytes_in(self.work / 'killed') / size:.0%}")
        peak = higher([*peaks, self.tokenize("killed").finish_well().peak])
        self.check_peak("tokenize, killed", peak, TOKENIZE_BOUND)
        self.add_row("tokenize, killed", time.monotonic() - begin, self.size, peak, kills)
        if len(kills) != self.options.kills:
            self.problems.append(f"tokenize was killed {len(kills)} times before its end; expected {self.options.kills}")
        self.problems += differences("files of the stores", hashes_of(self.work / "killed"), hashes_of(self.work / "whole"))
        shutil.rmtree(self.work / "killed")

    # ------------------------------------------------------------------------------------------------------------ training

    def train(self, out):
        small = {"name": "small", "path": "small.jsonl", "weight": SMALL_SHARE}
        large = {"name": "large", "path": "whole", "weight": 1 - SMALL_SHARE}
        config = {"model": "model", "output_dir": out, "threads": 1, "dtype": "fp32", "seq_len": SEQ_LEN, "method": "full",
                  "unit_lr": {"policy": "uniform"}, "data": {"train": [small, large]},
                  "train": {"max_steps": STEPS, "logging_steps": 1, "batch_size": BATCH, "save_steps": SAVE_STEPS,
                            "activation_cache": 0, "learning_rate": 1e-3}}  # fmt: skip
        (self.work / f"{out}.yaml").write_text(json.dumps(config))
        for path in (self.work / "whole").iterdir():  # a cold store
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return self.start("run", f"{out}.yaml")

    def log_of(self, out):
        """Lines with a loss, by step; a line that is being written is left out."""
        path, lines = self.work / out / "trainer_log.jsonl", {}
        for line in path.read_text().split("\n")[:-1] if path.exists() else []:
            values = json.loads(line)
            if "loss" in values:
                lines[values["current_steps"]] = values
        return lines

    def losses_of(self, out):
        return {(step, key): repr(value) for step, values in self.log_of(out).items() for key, value in values.items() if key.startswith("loss")}

    def kill_between(self, out, first, last):
        """Kills a training after step `first`, before the end of `last`. Returns the last step, or None if it was too late."""
        process = self.train(out)
        while process.is_running() and max(self.log_of(out), default=0) < first:
            time.sleep(0.001)
        was_killed = process.kill()
        process.finish()
        self.train_peaks.append(process.peak)
        step = max(self.log_of(out), default=0)
        return step if was_killed and first <= step <= last else None

    def kill_twice(self, out, end):
        """Shortly before and shortly after the step `end`. A kill that comes too late is tried again from the start."""
        for lead in range(3, 12, 2):
            shutil.rmtree(self.work / out, ignore_errors=True)
            before = self.kill_between(out, end - lead, end - 1)
            after = before and self.kill_between(out, end, min(end + 8, STEPS - 1))
            if after:
                return [f"step {before}, before the end of the epoch at step {end}", f"step {after}, after it"]
        return []

    def train_twice(self):
        lists = BYTES_PER_DOCUMENT * self.store["documents"] + BYTES_PER_SEQUENCE * self.store["tokens"] // SEQ_LEN
        whole = self.train("trained").finish_well()
        read = {"RssAnon": 0, "VmHWM": STEPS * BATCH * BYTES_PER_READ}
        bounds = {name: bound + lists + read[name] for name, bound in TRAIN_BOUND.items()}
        self.check_peak("train", whole.peak, bounds)
        self.add_row("train", whole.seconds, None, whole.peak)
        log = self.log_of("trained")
        if sorted(log) != list(range(1, STEPS + 1)):
            self.problems.append(f"train: its log has steps {sorted(log)}")
        end = min(step for step, values in log.items() if values["epoch"] >= 1)
        begin = time.monotonic()
        kills = self.kill_twice("resumed", end)
        last = self.train("resumed").finish_well()
        peak = higher([*self.train_peaks, last.peak])
        self.check_peak("train, killed", peak, bounds)
        self.add_row("train, killed", time.monotonic() - begin, None, peak, kills)
        if len(kills) != 2 or not re.search(rb"resuming after step \d+", last.errors):
            self.problems.append(f"train: {len(kills)} kills around the end of the epoch; expected 2, and that the last call resumes")
        self.problems += differences("losses", self.losses_of("resumed"), self.losses_of("trained"))
        self.problems += differences("weights", self.weights_of("resumed"), self.weights_of("trained"))

    def weights_of(self, out):
        return {name: value for name, value in hashes_of(self.work / out / "model").items() if name.endswith(".safetensors")}

    def end(self):
        """Prints and writes the report. Returns the exit code."""
        held = ", ".join(f"{value:,} {name}" for name, value in self.store.items())
        print(f"{self.size / MB:.0f} MB of text, seed {self.options.seed}; the store: {held}")
        columns = {"part": "part", "seconds": "seconds", "mb_per_second": "MB/s", "VmHWM_mb": "VmHWM MB", "RssAnon_mb": "RssAnon MB"}
        for row in [columns, *self.rows]:
            cells = [str(row.get(name) or "") for name in columns]
            print(f"{cells[0]:16}" + "".join(f" {cell:>10}" for cell in cells[1:]))
            for kill in row.get("kills", ()):
                print(f"    killed at {kill}")
        for problem in self.problems:
            print(f"FAILED: {problem}")
        record = {"text_bytes": self.size, "seed": self.options.seed, "store": self.store, "parts": self.rows, "problems": self.problems}
        self.options.report.write_text(json.dumps(record, indent=2) + "\n")
        return 1 if self.problems else 0

    def run(self):
        try:
            self.prepare()
            self.build_stores()
            self.train_twice()
            return self.end()
        finally:
            if not self.options.keep:
                shutil.rmtree(self.work, ignore_errors=True)


def size_of(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kB|MB|GB)", text)
    if not match:
        raise argparse.ArgumentTypeError(f'found "{text}"; expected a size such as 20MB or 5GB')
    return int(float(match[1]) * UNITS[match[2]])


def main(arguments):
    parser = argparse.ArgumentParser(prog="tools/soak_data.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default="5GB", help="of the text (default: 5GB)")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT.parent / "shared" / "data", help="folder of *train.jsonl.gz")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / ".cache" / "soak", help="folder to create (default: .cache/soak)")
    parser.add_argument("--report", type=pathlib.Path, help="JSON file (default: soak_data.json beside the work folder)")
    parser.add_argument("--seed", type=int, default=0, help="of the documents and of the kills (default: 0)")
    parser.add_argument("--kills", type=int, default=10, help="of adept tokenize (default: 10)")
    parser.add_argument("--keep", action="store_true", help="keep the work folder")
    options = parser.parse_args(arguments)
    if options.work.exists():
        parser.error(f"--work {options.work}: exists; expected a path that does not")
    options.work = options.work.absolute()
    options.report = options.report or options.work.parent / "soak_data.json"
    return Soak(options).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

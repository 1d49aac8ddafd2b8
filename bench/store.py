"""Measures how fast `adept tokenize --out` builds a token store: megabytes of text per second, on one and more cores;
and how fast training batches come from it: tokens per second.

    bench/run store [--text FILE] [--cores N,N] [--repeats N]

The tokenizer is SmolLM2's. Each pass is a new process, bound to N cores, with as many tokenizer threads beside the one that
reads and writes. It writes a new store to the disk; its whole time counts. The numbers of cores take turns. Every pass must
give the same store. Batches of 8 x 2048 are read from the last one, in the order of a training.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct"
WORK = CACHE / "bench" / "store"


def one_pass(adept, text, field, cores):
    """Seconds, and the record of the store."""
    shutil.rmtree(WORK, ignore_errors=True)
    command = [adept, "tokenize", "--quiet", "--model", MODEL, "--data", f"text={text}", "--out", WORK, "--threads", cores,
               *(["--text-field", field] if field else [])]  # fmt: skip
    begin = time.perf_counter()
    bound = sorted(os.sched_getaffinity(0))[: int(cores)]
    subprocess.run(list(map(str, command)), check=True, preexec_fn=lambda: os.sched_setaffinity(0, bound))
    seconds = time.perf_counter() - begin
    return seconds, json.loads((WORK / "store.json").read_text())


def batch_rate(program, packing):
    """Tokens per second of 200 batches."""
    process = subprocess.run([program, "--store", WORK, "--packing", packing], check=True, capture_output=True, text=True)
    result = json.loads(process.stdout)
    return result["tokens"] / result["seconds"]


def main(arguments):
    parser = argparse.ArgumentParser(prog="bench/run store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=pathlib.Path, default=CACHE / "text" / "lee_background.cor", help="any text that adept reads (default: the demo's news text)")
    parser.add_argument("--text-field", help="field of its records")
    parser.add_argument("--cores", default="1,2", help="numbers of cores (default: 1,2)")
    parser.add_argument("--repeats", type=int, default=5, help="passes with each number of cores (default: 5)")
    options = parser.parse_args(arguments)
    for needed in (MODEL / "tokenizer.json", options.text):
        if not needed.exists():
            parser.error(f"{needed}: no such file; scripts/fetch-demo-assets fetches it")
    adept = ROOT / os.environ.get("ADEPT_BUILD", "build/release") / "adept"
    text = options.text
    if text.suffix == ".cor":  # plain text under another name
        text = WORK.parent / "text.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(options.text, text)
    rates, fingerprints = {}, set()
    for _ in range(options.repeats):
        for cores in options.cores.split(","):
            seconds, store = one_pass(adept, text, options.text_field, cores)
            rates.setdefault(cores, []).append(store["counts"]["bytes"] / 1e6 / seconds)
            fingerprints.add(store["fingerprint"])
    megabytes = store["counts"]["bytes"] / 1e6
    print(f"{options.text}, {megabytes:.1f} MB of text, {options.repeats} passes each in turns: median MB/s (least, most)")
    for cores, rate in rates.items():
        print(f"cores {cores}  {statistics.median(rate):.1f} ({min(rate):.1f}, {max(rate):.1f})")
    for packing in ("concat", "best_fit"):
        batches = sorted(batch_rate(adept.parent / "adept_batches_bench", packing) / 1e6 for _ in range(options.repeats))
        print(f"batches, {packing}: {statistics.median(batches):.1f} million tokens/s ({batches[0]:.1f}, {batches[-1]:.1f})")
    shutil.rmtree(WORK, ignore_errors=True)
    if len(fingerprints) != 1:
        print(f"the stores differ: {sorted(fingerprints)}")
    return 0 if len(fingerprints) == 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measures tokenizers side by side: first pass over a text, one new process per pass.

    bench/run tokenizer [--text FILE] [--repeats N]

adept (build/release/tokenizer_tool), Hugging Face `tokenizers`, tokie and gigatoken (installed into .cache/bench/tokenizers)
take turns with one thread, and adept also with two. The vocabulary is SmolLM2's, with its own pre-tokenizer and with
those of Llama 3 and Qwen2; only the time of encoding counts. The numbers of ids must be equal; a program that refuses the
vocabulary is left out of its row (gigatoken refuses SmolLM2's: it has no token for some bytes; the other rows add these).
"""

import argparse
import gzip
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
WORK = CACHE / "bench" / "tokenizers"
VOCABULARY = CACHE / "models" / "SmolLM2-135M-Instruct" / "tokenizer.json"
PACKAGES = ("tokenizers", "tokie", "gigatoken")
BEFORE, BEHIND = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|", r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {"SmolLM2": None, "Llama 3": BEFORE + r"\p{N}{1,3}" + BEHIND, "Qwen2": BEFORE + r"\p{N}" + BEHIND}
# Reads texts as JSON lines, prints bytes, seconds and a sum of the ids.
PEER = """
import json, sys, time
name, path, lines = sys.argv[1:]
texts = [json.loads(line) for line in open(lines, encoding="utf-8")]
if name == "tokenizers":
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(path)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
elif name == "tokie":
    import tokie
    tokenizer = tokie.Tokenizer.from_json(path)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
else:
    import gigatoken
    tokenizer = gigatoken.Tokenizer(path)
    encode = lambda text: tokenizer.encode(text)
begin = time.perf_counter()
ids = [encode(text) for text in texts]
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "bytes": sum(len(text.encode()) for text in texts), "tokens": sum(map(len, ids))}))
"""


def texts_of(path):
    """The strings of a .txt or .jsonl file, plain or .gz: its lines, or the values of each record."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield "\n".join(map(str, json.loads(line).values())) if ".jsonl" in path.name else line


def install():
    python = WORK / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", WORK], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)
    return python


def byte_characters():
    """The characters that stand for single bytes in a byte-level vocabulary."""
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet())


def write_tokenizer(path, pattern):
    tokenizer = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    if pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_of]}
        vocabulary, added = tokenizer["model"]["vocab"], [token["id"] for token in tokenizer["added_tokens"]]
        for character in sorted(byte_characters() - vocabulary.keys()):
            vocabulary[character] = max(*vocabulary.values(), *added) + 1
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def one_pass(command, lines):
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with open(lines, encoding="utf-8") as standard_input:
        process = subprocess.run(command, stdin=standard_input, capture_output=True, text=True, env=environment, check=False)
    return json.loads(process.stdout) if process.returncode == 0 else None


def main(arguments):
    parser = argparse.ArgumentParser(prog="bench/run tokenizer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=pathlib.Path, default=CACHE / "text" / "lee_background.cor", help=".txt or .jsonl file, plain or .gz (default: the demo's news text)")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each program (default: 5)")
    options = parser.parse_args(arguments)
    for needed in (VOCABULARY, options.text):
        if not needed.exists():
            parser.error(f"{needed}: no such file; scripts/fetch-demo-assets fetches it")
    python = install()
    lines, tokenizer = WORK / "texts.jsonl", WORK / "tokenizer.json"
    lines.write_text("".join(json.dumps(text) + "\n" for text in texts_of(options.text)), encoding="utf-8")
    tool = ROOT / os.environ.get("ADEPT_BUILD", "build/release") / "tokenizer_tool"
    sides = {"adept": [tool, tokenizer, "--time"], "adept, 2 threads": [tool, tokenizer, "--time", "2"]} | {name: [python, "-c", PEER, name, tokenizer, lines] for name in PACKAGES}
    print(f"{options.text}, first pass, {options.repeats} passes each in turns: median MB/s (least, most)")
    for pattern, regex in PATTERNS.items():
        write_tokenizer(tokenizer, regex)
        rates, tokens = {}, {}
        for _ in range(options.repeats):
            for name, command in sides.items():
                if (result := one_pass(command, lines)) is not None:
                    rates.setdefault(name, []).append(result["bytes"] / 1e6 / result["seconds"])
                    tokens[name] = result["tokens"]
        row = [f"{name}: {statistics.median(rate):.1f} ({min(rate):.1f}, {max(rate):.1f})" for name, rate in rates.items()]
        same = len(set(tokens.values())) == 1
        print(f"{pattern:<8} {'  '.join(row)}{'' if same else '  different numbers of tokens: ' + str(tokens)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

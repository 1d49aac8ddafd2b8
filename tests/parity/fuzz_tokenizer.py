"""Differential fuzzing of the tokenizer against Hugging Face `tokenizers`: random Unicode and mutated text.

    python tests/parity/fuzz_tokenizer.py [--strings N] [--seed S] [KIND...]     KIND: of tokenizer_kinds.py

Stops at the first string with other ids, and prints it. test_tokenizer.py runs a short version.
"""

import argparse
import itertools
import json
import pathlib
import random
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
BLOCK = 20_000


def mutated_texts(generator, lines, count):
    """Stretches of `lines` in which characters are replaced, inserted, repeated, removed or swapped."""
    from test_tokenizer import random_texts

    junk = "".join(random_texts(generator.random(), 64))
    texts = []
    for _ in range(count):
        line = generator.choice(lines)
        begin = generator.randrange(max(1, len(line) - 40))
        text = list(line[begin : begin + generator.randint(1, 80)])
        for _ in range(generator.randint(0, 4)):
            at = generator.randrange(len(text) + 1)
            change = generator.randrange(5)
            if change == 0:
                text[at : at + 1] = generator.choice(junk)
            elif change == 1:
                text[at:at] = generator.choice(junk)
            elif change == 2:
                text[at:at] = text[at : at + 1] * generator.randint(1, 20)
            elif change == 3:
                del text[at : at + generator.randint(1, 5)]
            else:
                text[at : at + 2] = reversed(text[at : at + 2])
        texts.append("".join(text))
    return texts


def fuzz(kind, path, lines, strings, seed):
    """The first text whose ids differ, with both; None if there is none."""
    from test_tokenizer import random_texts, run_tool

    peer = kind()
    peer.save(str(path))
    generator = random.Random(seed)
    for begin in range(0, strings, BLOCK):
        count = min(BLOCK, strings - begin)
        texts = random_texts(generator.random(), count // 2) + mutated_texts(generator, lines, count - count // 2)
        replies = run_tool(path, texts)[1:]
        for text, reply, encoding in zip(texts, replies, peer.encode_batch(texts)):
            if reply.get("ids") != encoding.ids:
                return text, reply, encoding.ids
    return None


def main():
    import tokenizer_kinds
    from conftest import DATA
    from test_tokenizer import real_lines

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="default: all")
    parser.add_argument("--strings", type=int, default=1_000_000, help="number of strings per kind (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kinds = {kind.__name__: kind for kind in tokenizer_kinds.KINDS}
    lines = list(itertools.islice(real_lines(DATA, 300_000), 20_000)) or tokenizer_kinds.TRAINING_TEXT
    failed = False
    for name in arguments.kinds or kinds:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(kinds[name], pathlib.Path(folder) / "tokenizer.json", lines, arguments.strings, arguments.seed)
        seconds = time.monotonic() - begin
        print(f"{name}: {'the same ids for' if found is None else 'DIFFERS among'} {arguments.strings:,} strings ({seconds:.0f} s)", flush=True)
        if found:
            failed = True
            print(json.dumps({"text": found[0], "adept": found[1], "tokenizers": found[2]}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

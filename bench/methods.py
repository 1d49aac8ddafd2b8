"""Every method on the same model and data, one after the other, and one table.

    bench/methods CONFIG.yaml --out DIR [--method adept --method lora=2e-4 ...] [--set KEY=VALUE ...]

Each is `adept run CONFIG.yaml` with `method` and an output directory DIR/<method> of its own; METHOD=RATE gives it a
learning rate of its own. What was killed goes on where it stopped when the command is given again. The table is printed
and written to DIR/methods.md: losses on every held-out set before and after, trained parameters, tokens/s, and the
highest resident memory of the training.
"""

import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
METHODS = ["adept", "llama_pro", "full", "replay", "lora", "top_k_layers"]


def table(out, methods):
    rows = []
    for method in methods:
        results = json.loads((out / method / "all_results.json").read_text())
        stage = json.loads((out / method / "stages" / "train.json").read_text())
        sets = [key.removeprefix("base_").removesuffix("_loss") for key in results if key.startswith("base_") and key.endswith("_loss")]
        if not rows:
            rows.append(["method", *[f"{name}, loss" for name in sets], "trained parameters", "tokens/s", "memory, GB"])
            rows.append(["---"] * len(rows[0]))
            rows.append(["base", *[f"{results[f'base_{name}_loss']:.4f}" for name in sets], "", "", ""])
        losses = [(results[f"base_{name}_loss"], results[f"eval_{name}_loss"]) for name in sets]
        rows.append([
            method,
            *[f"{after:.4f} ({after - before:+.4f})" for before, after in losses],
            f"{results['trained_parameters']:,}",
            f"{results['train_tokens_per_second']:.0f}",
            f"{stage['peak_rss_bytes'] / 1e9:.2f}",
        ])  # fmt: skip
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--method", action="append", metavar="METHOD[=RATE]", help="default: all of " + ", ".join(METHODS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    arguments = parser.parse_args()
    methods = {}
    for word in arguments.method or METHODS:
        name, _, rate = word.partition("=")
        if name not in METHODS:
            parser.error(f"--method {word}: found {name!r}; expected one of {', '.join(METHODS)}")
        methods[name] = rate
    for name, rate in methods.items():
        keys = [f"method={name}", f"output_dir={arguments.out / name}", *([f"train.learning_rate={rate}"] if rate else [])]
        settings = [word for key in [*keys, *arguments.set] for word in ("--set", key)]
        done = subprocess.run([ROOT / "build/release/adept", "run", arguments.config, *settings], stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            raise SystemExit(done.returncode)
    text = table(arguments.out, methods)
    (arguments.out / "methods.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()

"""Runs every method on the same model and data, one after the other, and prints one table.

    bench/methods CONFIG.yaml --out DIR [--method adept --method lora=1e-4 ...] [--set KEY=VALUE ...]

Each run is `adept run CONFIG.yaml` with its own `method`, learning rate and output directory DIR/<method>. Methods
work best at different rates, so each has a default that overrides CONFIG.yaml: %(rates)s.
METHOD=RATE sets another rate, and --set train.learning_rate=RATE one for all. The defaults are starting points: if a
comparison matters, try several rates for each method.

All runs are checked before the first one starts. After a kill, the same command continues. The table is printed and
written to DIR/methods.md: the first metric (the loss) of every held-out set before and after training, the rate,
trained parameters, tokens/s, and the peak resident memory of the training. Relative paths, including those in
CONFIG.yaml, are relative to the working folder.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADEPT = pathlib.Path(os.environ.get("ADEPT_BUILD", ROOT / "build" / "release")) / "adept"
# Copies that start as the identity and adapters take about ten times the rate of weights that were trained before.
RATES = {"adept": "2e-4", "llama_pro": "2e-4", "full": "2e-5", "replay": "2e-5", "lora": "2e-4", "top_k_layers": "5e-5"}


def parse_method(word):
    name, given, rate = word.partition("=")
    if name not in RATES:
        raise argparse.ArgumentTypeError(f"found {name!r}; expected one of {', '.join(RATES)}")
    try:
        good = not given or float(rate) > 0
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"found the rate {rate!r}; expected a number above 0")
    return name, rate or RATES[name]


def parse_arguments():
    rates = ", ".join(f"{name} {rate}" for name, rate in RATES.items())
    parser = argparse.ArgumentParser(prog="bench/methods", description=__doc__ % {"rates": rates},
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--method", action="append", type=parse_method, metavar="METHOD[=RATE]",
                        help="repeatable; default: all of " + ", ".join(RATES))  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key in every run; repeatable")
    arguments = parser.parse_args()
    arguments.method = dict(arguments.method or RATES.items())
    return arguments


def settings(arguments, method):
    keys = [f"method={method}", f"output_dir={arguments.out / method}", f"train.learning_rate={arguments.method[method]}"]
    return [word for key in [*keys, *arguments.set] for word in ("--set", key)]


def check(arguments):
    """Exits with the problems of every run that would be refused."""
    problems = {}  # by message: what is wrong with the file is wrong for every method
    exit_code = 0
    for method in arguments.method:
        checked = subprocess.run([ADEPT, "config", arguments.config, *settings(arguments, method)], capture_output=True, text=True)
        if checked.returncode != 0:
            problems.setdefault(checked.stderr.strip(), []).append(method)
            exit_code = checked.returncode
    for message, methods in problems.items():
        print(f"bench/methods: {', '.join(methods)}:\n{message}", file=sys.stderr)
    if problems:
        print("bench/methods: nothing was run", file=sys.stderr)
        raise SystemExit(exit_code)


def headlines(file, results):
    """The first metric of each held-out set in a result of `adept eval`, as (name, value), in the order of the run."""
    datasets = json.loads(file.read_text())["datasets"]
    in_order = sorted(datasets, key=lambda name: list(results).index(f"eval_{name}_text"))
    return {name: next(iter(datasets[name].items())) for name in in_order}


def table(out, methods):
    rows = []
    for method in methods:
        results = json.loads((out / method / "all_results.json").read_text())
        stage = json.loads((out / method / "stages" / "train.json").read_text())
        base, trained = (headlines(out / method / file, results) for file in ("eval_base.json", "eval_model.json"))
        if not rows:
            headers = [f"{name}, {metric}" for name, (metric, _) in base.items()]
            rows.append(["method", *headers, "learning rate", "trained parameters", "tokens/s", "memory, GB"])
            rows.append(["---"] * len(rows[0]))
            rows.append(["base", *[f"{value:.4f}" for _, value in base.values()], "", "", "", ""])
        rows.append([
            method,
            *[f"{trained[name][1]:.4f} ({trained[name][1] - before:+.4f})" for name, (_, before) in base.items()],
            f"{results['learning_rate']:g}",
            f"{results['trained_parameters']:,}",
            f"{results['train_tokens_per_second']:.0f}",
            f"{stage['peak_rss_bytes'] / 1e9:.2f}",
        ])  # fmt: skip
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main():
    arguments = parse_arguments()
    if not ADEPT.is_file():
        raise SystemExit(f"bench/methods: {ADEPT} is not there; scripts/setup builds it")
    check(arguments)
    for method in arguments.method:
        command = [ADEPT, "run", arguments.config, *settings(arguments, method)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            print(f"bench/methods: {method} ended with exit code {done.returncode}", file=sys.stderr)
            raise SystemExit(done.returncode)
    text = table(arguments.out, arguments.method)
    (arguments.out / "methods.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()

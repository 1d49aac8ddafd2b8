"""adept against transformers on the real SmolLM2-135M, side by side in one run.

    bench/run [ROW...] [--repeats N] [--json FILE]

Each row starts one process per side on the same model directory, the same 4 x 512 token ids and the same number of
threads. The processes live through the row and work one at a time, turn by turn: transformers, adept, transformers;
the first turn of each is warm-up and not counted. The losses of both sides are compared at every turn: a row whose
sides do not compute the same thing is an error. Needs the model (scripts/fetch-demo-assets model; it is imported and
expanded here with build/release/adept) and the news text (scripts/fetch-demo-assets text).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct"
GGUF = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = CACHE / "text" / "lee_background.cor"
SPREAD, TOP = (7, 14, 21, 28), (25, 26, 27, 28)
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}  # relative; the steps differ by rounding, never by more


@dataclasses.dataclass(frozen=True)
class Row:
    work: str
    dtype: str
    after: tuple = ()

    def label(self):
        what = (
            "forward + loss"
            if self.work == "forward"
            else f"ADEPT step, copies after {', '.join(map(str, self.after))}"
        )
        return f"{what}, {self.dtype}"


ROWS = {
    "forward-fp32": Row("forward", "fp32"),
    "forward-bf16": Row("forward", "bf16"),
    "step-fp32": Row("step", "fp32", SPREAD),
    "step-bf16": Row("step", "bf16", SPREAD),
    "step-top-fp32": Row("step", "fp32", TOP),
    "step-top-bf16": Row("step", "bf16", TOP),
}


class BenchError(Exception):
    """Something is missing or the two sides disagree."""


class Side:
    """One process that does one repeat at a time."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.ready = self.answer()
        self.seconds, self.losses = [], []

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.name} ended with exit code {self.process.wait()}; its message is above")
        return json.loads(line)

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def repeat(self):
        result = self.tell("repeat")
        self.seconds.append(result["seconds"])
        self.losses.append(result["loss"])

    def end(self):
        peak = self.tell("end")["peak_rss_bytes"]
        self.process.wait()
        rates = sorted(self.ready["tokens"] / seconds for seconds in self.seconds[1:])
        return {
            "tokens_per_s": {"min": rates[0], "median": statistics.median(rates), "max": rates[-1]},
            "peak_rss_bytes": peak,
            "seconds": self.seconds,
            "losses": self.losses,
            "threads": self.ready["threads"],
            "trained_parameters": self.ready["trained"],
            "versions": self.ready["versions"],
        }


def adept(build, *arguments):
    process = subprocess.run([build / "adept", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    if process.returncode != 0:
        raise BenchError(f"adept {arguments[0]} ended with {process.returncode}:\n{process.stderr}")


def model_directory(build, after):
    """The base model, or the same with copies after the given layers; made once."""
    if not (MODEL / "config.json").is_file():
        if not GGUF.is_file():
            raise BenchError(f"{GGUF.relative_to(ROOT)} is not here; run scripts/fetch-demo-assets model")
        adept(build, "import-gguf", "--gguf", GGUF, "--out", MODEL)
    if not after:
        return MODEL
    expanded = CACHE / "bench" / f"{MODEL.name}-after-{'-'.join(map(str, after))}"
    if not (expanded / "config.json").is_file():
        expanded.parent.mkdir(parents=True, exist_ok=True)
        adept(build, "expand", "--model", MODEL, "--out", expanded, "--after", ",".join(map(str, after)))
    return expanded


def write_ids(rows, columns):
    """Real text as token ids, rows x columns, into a file for both sides."""
    import tokenizers

    if not TEXT.is_file():
        raise BenchError(f"{TEXT.relative_to(ROOT)} is not here; run scripts/fetch-demo-assets text")
    text = TEXT.read_text(encoding="utf-8")[: rows * columns * 8]
    ids = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    path = CACHE / "bench" / f"ids-{rows}x{columns}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([ids[row * columns : (row + 1) * columns] for row in range(rows)]))
    return path


def check_same_work(row, peer, own):
    for turn, (expected, found) in enumerate(zip(peer.losses, own.losses)):
        if not abs(expected - found) <= LOSS_TOLERANCE[row.dtype] * abs(expected):
            raise BenchError(
                f"{row.label()}: turn {turn}: transformers' loss is {expected:.6f}, adept's {found:.6f}; "
                "the two sides do not do the same work"
            )
    if peer.ready["trained"] != own.ready["trained"]:
        raise BenchError(
            f"{row.label()}: {peer.ready['trained']:,} parameters train in transformers, "
            f"{own.ready['trained']:,} in adept"
        )


def measure(row, build, arguments):
    model = model_directory(build, row.after)
    common = [
        "--model",
        model,
        "--ids",
        write_ids(*arguments.batch),
        "--work",
        row.work,
        "--dtype",
        row.dtype,
        "--threads",
        str(arguments.threads),
    ]
    peer_options = ["--compile"] if arguments.compile_peer else []
    sides = []
    try:
        sides.append(Side("transformers", [sys.executable, "bench/peer_step.py", *common, *peer_options]))
        sides.append(Side("adept", [build / "adept_bench", *common]))
        for turn in range(arguments.repeats + 1):
            for side in sides:
                print(
                    f"\r{row.label()}: {'warm-up' if turn == 0 else f'{turn}/{arguments.repeats}'} {side.name}\033[K",
                    end="",
                    file=sys.stderr,
                )
                side.repeat()
            check_same_work(row, *sides)
        print("\r\033[K", end="", file=sys.stderr)
        peer, own = sides[0].end(), sides[1].end()
    finally:
        for side in sides:
            if side.process.poll() is None:
                side.process.kill()
            side.process.wait()
    return {
        "row": row.label(),
        "work": row.work,
        "dtype": row.dtype,
        "after": row.after,
        "transformers": peer,
        "adept": own,
        "ratio": own["tokens_per_s"]["median"] / peer["tokens_per_s"]["median"],
        "memory_ratio": own["peak_rss_bytes"] / peer["peak_rss_bytes"],
    }


def hardware():
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    field = lambda name: next(
        (line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith(name)), "unknown"
    )
    flags = field("flags").split()
    return {
        "cpu": field("model name"),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "instruction_sets": [
            name for name in ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if name in flags
        ],
        "load_average_at_start": os.getloadavg()[0],
    }


def print_header(machine, arguments):
    print(
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instruction_sets'])}), "
        f"{arguments.threads} threads, batch {arguments.batch[0]} x {arguments.batch[1]}, "
        f"{arguments.repeats} repeats after one warm-up, interleaved"
    )
    if machine["load_average_at_start"] > 0.5:
        print(
            f"note: the machine was not idle (load {machine['load_average_at_start']:.1f}); "
            "compare the ratios, not the rates"
        )
    if "avx512_bf16" not in machine["instruction_sets"] and "amx_bf16" not in machine["instruction_sets"]:
        print("note: this processor has no bf16 products of its own; the bf16 rows are emulated on both sides")
    rates = f"{'min':>8}{'median':>8}{'max':>8}  "
    print(f"\n{'':<46}{'transformers, tokens/s':^26}{'adept, tokens/s':^26}{'ratio':>7}{'peak RSS, GB':>16}")
    print(f"{'':<46}{rates}{rates}{'':>7}{'peer':>8}{'adept':>8}")


def print_row(result):
    rates = lambda side: "{min:8.0f}{median:8.0f}{max:8.0f}  ".format(**result[side]["tokens_per_s"])
    memory = lambda side: f"{result[side]['peak_rss_bytes'] / 1e9:8.2f}"
    print(
        f"{result['row']:<46}{rates('transformers')}{rates('adept')}{result['ratio']:>7.2f}"
        f"{memory('transformers')}{memory('adept')}",
        flush=True,
    )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: all of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="save everything here as well")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=lambda text: tuple(map(int, text.split("x"))), default=(4, 512), metavar="BxT")
    parser.add_argument("--compile-peer", action="store_true", help="torch.compile on the side of transformers")
    arguments = parser.parse_args()
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown:
        parser.error(f"unknown row {', '.join(unknown)}; known: {', '.join(ROWS)}")
    if arguments.repeats < 1 or len(arguments.batch) != 2 or min(arguments.batch) < 2:
        parser.error("--repeats must be at least 1, --batch two numbers of at least 2, such as 4x512")
    return arguments


def main():
    arguments = parse_arguments()
    build = ROOT / os.environ.get("ADEPT_BUILD", "build/release")
    try:
        if not (build / "adept_bench").is_file():
            raise BenchError(f"{build}/adept_bench is not built; run scripts/setup")
        machine = hardware()
        print_header(machine, arguments)
        results = []
        for name in arguments.rows or ROWS:
            results.append(measure(ROWS[name], build, arguments))
            print_row(results[-1])
        versions = {side: results[0][side]["versions"] for side in ("transformers", "adept")}
        print(
            "\n"
            + "; ".join(
                f"{side}: " + ", ".join(f"{name} {version}" for name, version in found.items())
                for side, found in versions.items()
            )
        )
        if arguments.json:
            record = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "hardware": machine,
                "threads": arguments.threads,
                "batch": arguments.batch,
                "repeats": arguments.repeats,
                "compile_peer": arguments.compile_peer,
                "rows": results,
            }
            arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    except BenchError as error:
        print(f"\nbench/run: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

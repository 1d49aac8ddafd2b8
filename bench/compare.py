"""Compares adept with transformers, side by side in one run.

    bench/run [ROW...] [--repeats N] [--json FILE] [--device cuda]
    bench/run tokenizer --help     for the tokenizer beside others
    bench/run store --help         for building token stores

The peer is transformers; in the rows named scaling, it is adept on one thread. Each row starts one process per side with
the same model directory, the same token ids and the same number of threads. The processes run for the whole row and work
alternately: the peer, adept, the peer. The first turn of each is warm-up and is not counted. The losses of both sides
are compared at every turn: it is an error if the sides do not compute the same.

Models, in bf16 files: the real SmolLM2-135M, 4 x 512 tokens (it is fetched, imported and expanded here with
build/release/adept), and random weights in the shapes of Qwen3-0.6B, 2 x 512 tokens, and Qwen3-1.7B, 8 x 1,024, which
are created here (1.2 and 3.4 GB), with random ids. The ids of SmolLM2 are from a news text. Rows named tiny are for tests of this program.

The file of results has, for steps, each side's share of the speed of light (SOL: the rate of matrix products measured here)
and with --machine of the peak rate of its data sheet (MFU). Both count necessary operations only.

Memory is the peak resident set of a process; on a GPU, the peak of its tensors.

On two cores, a row of SmolLM2 takes 2 to 15 minutes with 5 repeats, of Qwen3-0.6B's shape 2 to 10, its probe an hour.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import importlib.util
import json
import os
import pathlib
import platform
import random
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
MODEL = CACHE / "bench" / "SmolLM2-135M-Instruct-bf16"  # the type in which it is published
GGUF = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = CACHE / "text" / "lee_background.cor"
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}  # relative; the steps differ by rounding, never by more
WORK = {
    "forward": "forward + loss",
    "step": "ADEPT step",
    "full": "full fine-tuning step",
    "probe": "mask_out probe of every layer",
}


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    batch: tuple
    spread: tuple  # where copies go: evenly, ...
    top: tuple  # ... and behind the last layers
    hidden_size: int = 0  # of random weights in a shape of Qwen3
    intermediate_size: int = 0
    num_layers: int = 28
    vocab_size: int = 151_936


SMOLLM2 = Model("SmolLM2-135M", (4, 512), (7, 14, 21, 28), (25, 26, 27, 28))
QWEN3 = Model("Qwen3-0.6B's shape", (2, 512), (6, 13, 20, 27), (24, 25, 26, 27), 1024, 3072)
QWEN3_LARGE = Model("Qwen3-1.7B's shape", (8, 1024), (6, 13, 20, 27), (24, 25, 26, 27), 2048, 6144)
TINY = Model("a tiny shape", (2, 16), (0, 1), (1,), 64, 96, num_layers=2, vocab_size=300)


@dataclasses.dataclass(frozen=True)
class Row:
    work: str
    dtype: str
    after: tuple = ()
    model: Model = SMOLLM2
    cached: bool = False  # adept reads the layers below the lowest copy from its activation cache
    recomputes: str = ""  # activation_checkpointing, of adept alone
    compiled: bool = False  # torch.compile on the side of transformers
    scaling: bool = False  # adept itself on one thread takes the place of transformers

    def label(self):
        parts = [WORK[self.work]]
        if self.after:
            parts.append(f"copies after {','.join(map(str, self.after))}")
        if self.cached:
            parts.append("second epoch")
        if self.recomputes:
            parts.append(f"activation_checkpointing: {self.recomputes}")
        if self.compiled:
            parts.append("torch.compile")
        if self.scaling:
            parts.append("adept on 1 thread as the peer")
        return ", ".join([*parts, self.dtype])


def rows_of(prefix, model, dtype):
    return {
        f"{prefix}forward-{dtype}": Row("forward", dtype, model=model),
        f"{prefix}step-{dtype}": Row("step", dtype, model.spread, model),
        f"{prefix}step-compiled-{dtype}": Row("step", dtype, model.spread, model, compiled=True),
        f"{prefix}step-top-{dtype}": Row("step", dtype, model.top, model),
        f"{prefix}step-top-cached-{dtype}": Row("step", dtype, model.top, model, cached=True),
        f"{prefix}step-selective-{dtype}": Row("step", dtype, model.spread, model, recomputes="selective"),
        f"{prefix}step-recomputed-{dtype}": Row("step", dtype, model.spread, model, recomputes="full"),
        f"{prefix}full-{dtype}": Row("full", dtype, model=model),
        f"{prefix}probe-{dtype}": Row("probe", dtype, model=model),
        f"{prefix}scaling-{dtype}": Row("step", dtype, model.spread, model, scaling=True),
    }


ROWS = {
    name: row
    for prefix, model in (("", SMOLLM2), ("qwen3-", QWEN3), ("qwen3-1.7b-", QWEN3_LARGE), ("tiny-", TINY))
    for dtype in ("fp32", "bf16")
    for name, row in rows_of(prefix, model, dtype).items()
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
            code = self.process.wait()
            if code == -signal.SIGKILL:
                raise BenchError(f"{self.name} was killed; the two sides need their memory at the same time")
            raise BenchError(f"{self.name} ended with exit code {code}; its message is above")
        return json.loads(line)

    def tell(self, line):
        with contextlib.suppress(BrokenPipeError):  # it has ended; answer() says how
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        return self.answer()

    def repeat(self):
        result = self.tell("repeat")
        self.seconds.append(result["seconds"])
        self.losses.append(result["loss"])

    def end(self):
        end = self.tell("end")
        self.process.wait()
        rates = sorted(self.ready["tokens"] / seconds for seconds in self.seconds[1:])
        return {
            "tokens_per_s": {"min": rates[0], "median": statistics.median(rates), "max": rates[-1]},
            **end,
            "seconds": self.seconds,
            "losses": self.losses,
            "threads": self.ready["threads"],
            "trained_parameters": self.ready["trained"],
            "load_seconds": self.ready["load_seconds"],
            "versions": self.ready["versions"],
        }


def run(command, name):
    """What a program prints."""
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    if process.returncode != 0:
        raise BenchError(f"{name} ended with exit code {process.returncode}:\n{process.stderr}")
    return process.stdout


def adept(build, *arguments):
    run([build / "adept", *arguments], f"adept {arguments[0]}")


def fetch(asset, path):
    """Makes sure that a file of scripts/fetch-demo-assets is there."""
    if path.is_file():
        return
    process = subprocess.run([ROOT / "scripts" / "fetch-demo-assets", asset], cwd=ROOT, env={**os.environ, "ADEPT_PYTHON": sys.executable})
    if process.returncode != 0 or not path.is_file():
        raise BenchError(f"{path.relative_to(ROOT)} could not be fetched")


def base_model(build, model):
    """The directory of a model; made once."""
    if model.hidden_size:
        return random_qwen3(model)
    if not (MODEL / "config.json").is_file():
        fetch("model", GGUF)
        adept(build, "import-gguf", "--gguf", GGUF, "--out", MODEL, "--dtype", "bf16")
    return MODEL


def random_qwen3(model):
    """Random weights in the shape of Qwen3-0.6B or 1.7B (their config.json on the hub)."""
    import torch
    import transformers

    folder = CACHE / "bench" / model.name.lower().replace("'s ", "-").replace(" ", "-")
    if not (folder / "config.json").is_file():
        config = transformers.Qwen3Config(
            hidden_size=model.hidden_size,
            intermediate_size=model.intermediate_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=model.vocab_size,
            tie_word_embeddings=True,
            rope_theta=1e6,
            max_position_embeddings=40_960,
            dtype="bfloat16",
        )
        torch.manual_seed(1)
        unfinished = folder.with_suffix(".new")
        transformers.Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(unfinished)
        unfinished.rename(folder)
    return folder


def model_directory(build, row):
    """The model of a row, or the same with copies; made once."""
    base = base_model(build, row.model)
    if not row.after:
        return base
    expanded = CACHE / "bench" / f"{base.name}-after-{'-'.join(map(str, row.after))}"
    if not (expanded / "config.json").is_file():
        expanded.parent.mkdir(parents=True, exist_ok=True)
        adept(build, "expand", "--model", base, "--out", expanded, "--after", ",".join(map(str, row.after)))
    return expanded


def write_ids(build, model, rows, columns):
    """Token ids, rows x columns, into a file for both sides: of real text, and random ones for random weights."""
    path = CACHE / "bench" / f"ids-{model.vocab_size if model.hidden_size else 'text'}-{rows}x{columns}.json"
    ids = random_ids(model, rows * columns) if model.hidden_size else text_ids(build, rows, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([ids[row * columns : (row + 1) * columns] for row in range(rows)]))
    return path


def random_ids(model, count):
    generator = random.Random(1)
    return [generator.randrange(model.vocab_size) for _ in range(count)]


def text_ids(build, rows, columns):
    import tokenizers

    base_model(build, SMOLLM2)  # has the tokenizer
    fetch("text", TEXT)
    text = TEXT.read_text(encoding="utf-8")[: rows * columns * 8]
    ids = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    if len(ids) < rows * columns:
        raise BenchError(f"--batch: {rows} x {columns} tokens are more than the {len(ids):,} of {TEXT.relative_to(ROOT)}")
    return ids


def check_same_work(row, peer, own):
    for turn, (expected, found) in enumerate(zip(peer.losses, own.losses)):
        if not abs(expected - found) <= LOSS_TOLERANCE[row.dtype] * abs(expected):
            raise BenchError(
                f"{row.label()}: turn {turn}: the peer's loss is {expected:.6f}, adept's {found:.6f}; "
                "the two sides do not do the same work"
            )
    if peer.ready["trained"] != own.ready["trained"]:
        raise BenchError(
            f"{row.label()}: {peer.ready['trained']:,} parameters train in the peer, "
            f"{own.ready['trained']:,} in adept"
        )


def measure(row, build, arguments):
    model = model_directory(build, row)
    options = ["--model", model, "--ids", write_ids(build, row.model, *(arguments.batch or row.model.batch))]
    options += ["--work", row.work, "--dtype", row.dtype, "--device", arguments.device]
    threads = ["--threads", str(arguments.threads)]
    transformers = [sys.executable, "bench/peer_step.py", *options, *threads, *(["--compile"] if row.compiled else [])]
    own = [build / "adept_bench", *options, *(["--cached"] if row.cached else [])]
    own += ["--activation-checkpointing", row.recomputes] if row.recomputes else []
    own += ["--machine", arguments.machine] if arguments.machine else []
    peer = [*own, "--threads", "1"] if row.scaling else transformers
    sides = []
    try:
        sides.append(Side("peer", peer))
        sides.append(Side("adept", [*own, *threads]))
        for turn in range(arguments.repeats + 1):
            for side in sides:
                print(
                    f"\r{row.label()}: {'warm-up' if turn == 0 else f'{turn}/{arguments.repeats}'} {side.name}\033[K",
                    end="",
                    file=sys.stderr,
                )
                side.repeat()
            check_same_work(row, *sides)
        peer, own = sides[0].end(), sides[1].end()
        add_shares(peer, own)
    finally:
        print("\r\033[K", end="", file=sys.stderr)
        for side in sides:
            if side.process.poll() is None:
                side.process.kill()
            side.process.wait()
    return {
        "row": row.label(),
        "work": row.work,
        "dtype": row.dtype,
        "after": row.after,
        "scaling": row.scaling,
        "model": row.model.name,
        "model_bytes": sum(file.stat().st_size for file in model.glob("*.safetensors")),
        "batch": arguments.batch or row.model.batch,
        "peer": peer,
        "adept": own,
        "ratio": own["tokens_per_s"]["median"] / peer["tokens_per_s"]["median"],
        "memory_ratio": own["peak_bytes"] / peer["peak_bytes"],
    }


def add_shares(peer, own):
    """Of the speed of light and of the peak rate: of both sides, because they do the same work."""
    for name, rate in (("speed_of_light", "matmul_rate"), ("mfu", "peak_rate")):
        for side in (peer, own) if rate in own else ():
            side[name] = side["tokens_per_s"]["median"] * own["flops_per_token"] / own[rate]


def hardware(cores):
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    field = lambda name: next(
        (line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith(name)), "unknown"
    )
    flags = field("flags").split()
    return {
        "cpu": field("model name"),
        "cores": cores,
        "system": platform.platform(),
        "instruction_sets": [
            name for name in ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if name in flags
        ],
        "load_average_at_start": os.getloadavg()[0],
    }


def print_header(machine, arguments):
    device = f"{arguments.device}, " if arguments.device != "cpu" else ""
    print(
        f"{device}{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instruction_sets'])}), "
        f"{arguments.threads} threads, {arguments.repeats} repeat{'s' if arguments.repeats > 1 else ''} after one warm-up, interleaved"
    )
    if machine["load_average_at_start"] > 0.5:
        print(
            f"note: the machine was not idle (load {machine['load_average_at_start']:.1f}); "
            "compare the ratios, not the rates"
        )
    emulated = {"avx512_bf16", "amx_bf16"}.isdisjoint(machine["instruction_sets"]) and arguments.device == "cpu"
    if emulated and any(ROWS[row].dtype == "bf16" for row in arguments.rows):
        print("note: this processor has no bf16 products of its own; the bf16 rows are emulated on both sides")
    print(f"saved in {arguments.json} after each row")
    rates = f"{'min':>8}{'median':>8}{'max':>8}  "
    print(f"\n{'':<76}{'peer, tokens/s':^26}{'adept, tokens/s':^26}{'ratio':>7}{'memory, GB':>16}{'ratio':>7}")
    print(f"{'':<76}{rates}{rates}{'':>7}{'peer':>8}{'adept':>8}")


def print_row(result):
    rates = lambda side: "{min:8.0f}{median:8.0f}{max:8.0f}  ".format(**result[side]["tokens_per_s"])
    memory = lambda side: f"{result[side]['peak_bytes'] / 1e9:8.2f}"
    print(
        f"{result['row']:<76}{rates('peer')}{rates('adept')}{result['ratio']:>7.2f}"
        f"{memory('peer')}{memory('adept')}{result['memory_ratio']:>7.2f}",
        flush=True,
    )


def print_load_times(results):
    """Of the first row of each model and dtype, until the first step can begin; adept maps what needs no conversion."""
    seen = set()
    print()
    for result in results:
        key = (result["model"], result["dtype"])
        if key in seen:
            continue
        seen.add(key)
        peer, own = result["peer"]["load_seconds"], result["adept"]["load_seconds"]
        rate = result["model_bytes"] / own / 1e6
        peers = "" if result["scaling"] else f"by transformers in {peer:.2f} s, "
        print(f"{' in '.join(key)}: loaded {peers}by adept in {own:.2f} s ({rate:,.0f} MB/s)")


def print_versions(results):
    sides = {
        "transformers": next((result["peer"]["versions"] for result in results if not result["scaling"]), {}),
        "adept": results[0]["adept"]["versions"],
    }
    told = [f"{side}: {', '.join(map(' '.join, found.items()))}" for side, found in sides.items() if found]
    print("\n" + "; ".join(told))


def parse_batch(text):
    numbers = text.split("x")
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) >= 2 for number in numbers):
        raise argparse.ArgumentTypeError(f"found {text}; expected two numbers of at least 2, such as 4x512")
    return tuple(map(int, numbers))


def is_usual(row, on_gpu):
    """Whether a row is measured unless others are asked for."""
    if on_gpu:
        return row.model is QWEN3_LARGE and row.dtype == "bf16" and not row.scaling
    return row.model in (SMOLLM2, QWEN3)


def parse_arguments():
    known = "\n".join(f"  {name:<32}{row.label()}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="bench/run", description=__doc__, epilog=f"rows:\n{known}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW",
        help="names or patterns such as 'step-*-fp32' (default: all except tiny ones and Qwen3-1.7B's shape; with --device cuda, those in bf16)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each row, after one warm-up (default: 5)")
    parser.add_argument("--json", type=pathlib.Path, help="file for all results (default: .cache/bench/results-<time>.json)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of both sides (default: cpu)")
    parser.add_argument("--machine", help="machine of `adept plan` whose peak rate MFU refers to, such as h100")
    parser.add_argument("--threads", type=int, help="threads of both sides (default: the physical cores that this process may use)")
    parser.add_argument("--batch", type=parse_batch, metavar="BxT", help="batch size of every row: sequences x tokens")
    arguments = parser.parse_args()
    chosen = []
    on_gpu = arguments.device == "cuda"
    for pattern in arguments.rows or [name for name, row in ROWS.items() if is_usual(row, on_gpu)]:
        matching = fnmatch.filter(ROWS, pattern)
        if not matching:
            parser.error(f"no row {pattern}; known: {', '.join(ROWS)}")
        chosen += [row for row in matching if row not in chosen]
    arguments.rows = chosen
    arguments.json = arguments.json or CACHE / "bench" / time.strftime("results-%Y%m%d-%H%M%S.json")
    if arguments.repeats < 1 or (arguments.threads is not None and arguments.threads < 1):
        parser.error("--repeats and --threads must be at least 1")
    return arguments


def save(path, machine, arguments, results):
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": machine,
        "device": arguments.device,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "rows": results,
    }
    try:
        if path.parent == CACHE / "bench":
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}; choose a file with --json") from None


def check_peers(device):
    missing = [name for name in ("tokenizers", "torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise BenchError(f"{sys.executable} has no {' and no '.join(missing)}; scripts/setup makes a .venv with them")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BenchError("--device cuda: this torch has no CUDA support or finds no GPU")


def measure_rows(build, arguments, results):
    """Appends what each row gave, or why it gave nothing, and saves all after each."""
    cores = int(run([build / "adept_bench", "--cores"], "adept_bench --cores"))
    arguments.threads = arguments.threads or cores
    machine = hardware(cores)
    save(arguments.json, machine, arguments, results)  # before anything is measured for it
    print_header(machine, arguments)
    last_model = None
    for name in arguments.rows:
        row = ROWS[name]
        if row.model is not last_model:
            rows, columns = arguments.batch or row.model.batch
            print(f"{row.model.name}, {rows} x {columns} tokens")
        last_model = row.model
        try:
            results.append(measure(row, build, arguments))
            print_row(results[-1])
        except BenchError as error:
            results.append({"row": row.label(), "model": row.model.name, "error": str(error)})
            print(f"{row.label()}: failed")
            print(f"\nbench/run: {error}", file=sys.stderr)
        save(arguments.json, machine, arguments, results)


def main():
    arguments = parse_arguments()
    build = ROOT / os.environ.get("ADEPT_BUILD", "build/release")
    results = []
    try:
        check_peers(arguments.device)
        if not (build / "adept_bench").is_file():
            raise BenchError(f"{build}/adept_bench is not built; run scripts/setup tests")
        measure_rows(build, arguments, results)
    except BenchError as error:
        print(f"\nbench/run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench/run: interrupted", file=sys.stderr)
        return 130
    finally:
        if measured := [result for result in results if "error" not in result]:
            print_load_times(measured)
            print_versions(measured)
    return 1 if len(measured) < len(results) else 0


if __name__ == "__main__":
    sys.exit(main())

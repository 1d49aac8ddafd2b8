"""The transformers side of bench/run: the same work as adept_bench, told over the same lines.

Settings, chosen to be fast for transformers: SDPA attention, no key-value cache, frozen parameters without gradients
(so autograd records nothing below the lowest copy), parameters in the compute dtype, fused AdamW, gradients freed
between steps. What trains in bf16 has fp32 masters and moments, as mixed-precision training has: without them updates
below half a unit in the last place are lost. Autocast on an fp32 model would be slower, as its residual stream and norms
are fp32. `--compile` adds torch.compile. A probe is a forward pass of the model, and one without each layer.

Lines in:  repeat | end.   Lines out: one JSON object each: ready, then the answer to each line.
"""

import argparse
import json
import pathlib
import platform
import sys
import time

import torch
import transformers

transformers.utils.logging.disable_progress_bar()
LEARNING_RATE, BETAS, EPS = 1e-4, (0.9, 0.95), 1e-8  # as in adept_bench


def peak_rss_bytes():
    """High-water mark of this process's resident memory."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def trained_layers(model_directory):
    manifest = json.loads((model_directory / "adept_expansion.json").read_text())
    return [layer["index"] for layer in manifest["expanded_layers"]]


class MasterAdamW:
    """AdamW on fp32 masters of `parameters`, whose gradients it clips to norm 1; of fp32 parameters on these."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.are_masters = all(parameter.dtype == torch.float32 for parameter in parameters)
        self.masters = parameters if self.are_masters else [parameter.detach().float() for parameter in parameters]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True
        )

    @torch.no_grad()
    def step(self):
        """Takes the parameters' gradients and updates them."""
        if not self.are_masters:
            for parameter, master in zip(self.parameters, self.masters):
                master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.are_masters:
            torch._foreach_copy_(self.parameters, self.masters)


class Work:
    """One timed task: forward and loss, a whole training step on the copies or on everything, or a probe."""

    def __init__(self, arguments):
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            arguments.model, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        self.model.config.use_cache = False
        self.model.requires_grad_(False)
        self.model.to(arguments.device)
        self.on_gpu = arguments.device == "cuda"
        self.ids = torch.tensor(json.loads(arguments.ids.read_text()), device=arguments.device)
        self.optimizer = None
        self.probes = arguments.work == "probe"
        if arguments.work in ("step", "full"):
            self.model.train()
            self.model.requires_grad_(arguments.work == "full")
            if arguments.work == "step":
                for index in trained_layers(arguments.model):
                    self.model.model.layers[index].requires_grad_(True)
            self.optimizer = MasterAdamW([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        else:
            self.model.eval()
        self.run = torch.compile(self.model) if arguments.compile else self.model
        if self.on_gpu:  # loading does not count
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def probe(self):
        layers = self.model.model.layers
        losses = [self.forward()]
        for skipped in range(len(layers)):
            self.model.model.layers = torch.nn.ModuleList(l for index, l in enumerate(layers) if index != skipped)
            losses.append(self.forward())
        self.model.model.layers = layers
        return sum(losses) / len(losses)

    def forward(self):
        with torch.inference_mode():
            return self.run(input_ids=self.ids, labels=self.ids).loss.item()

    def once(self):
        if self.probes:
            return self.probe()
        if self.optimizer is None:
            return self.forward()
        loss = self.run(input_ids=self.ids, labels=self.ids).loss
        loss.backward()
        self.optimizer.step()
        if self.on_gpu:
            torch.cuda.synchronize()
        return loss.item()

    def peak_bytes(self):
        """Of the process; on a GPU of the tensors there."""
        return torch.cuda.max_memory_allocated() if self.on_gpu else peak_rss_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--ids", type=pathlib.Path, required=True, help="JSON: rows of token ids")
    parser.add_argument("--work", choices=("forward", "step", "full", "probe"), required=True)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    work = Work(arguments)
    load_seconds = time.perf_counter() - start

    def say(**fields):
        print(json.dumps(fields), flush=True)

    say(
        ready=True,
        tokens=work.ids.numel(),
        threads=torch.get_num_threads(),
        load_seconds=load_seconds,
        trained=sum(parameter.numel() for parameter in work.model.parameters() if parameter.requires_grad),
        versions={
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            **({"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()} if work.on_gpu else {}),
        },
    )
    for line in sys.stdin:
        if line.strip() == "repeat":
            start = time.perf_counter()
            loss = work.once()
            say(seconds=time.perf_counter() - start, loss=loss)
        else:
            say(peak_bytes=work.peak_bytes())
            return


if __name__ == "__main__":
    main()

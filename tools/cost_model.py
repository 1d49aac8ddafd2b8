"""What ADEPT costs on many GPUs: memory, operations and communication of a step, by formulas. Prints the tables of
docs/cost-model.md.

Everything is calculated, nothing measured. tests/cli/test_cost_model.py compares it with `adept plan`.
"""

import dataclasses
import math

BF16, FP32 = 2, 4  # bytes
GIGA, TERA = 1e9, 1e12


@dataclasses.dataclass(frozen=True)
class Shape:
    """A llama model whose embeddings are not tied, and how many layers are copied, at a uniform stride."""

    name: str
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    ffn: int
    vocabulary: int
    copies: int
    head_dim: int = 128

    def matrices(self):
        """Elements of the matrices of a layer."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.key_value_heads)
        return attention + 3 * self.hidden * self.ffn

    def layer(self):
        """Parameters of a layer: matrices and two norms."""
        return self.matrices() + 2 * self.hidden

    def table(self):
        """Parameters of the embeddings, and of the head."""
        return self.hidden * self.vocabulary

    def base(self):
        return self.layers * self.layer() + 2 * self.table() + self.hidden

    def trained(self):
        return self.copies * self.layer()

    def after(self):
        return [(i + 1) * self.layers // self.copies - 1 for i in range(self.copies)]

    def flops_per_token(self, tokens):
        """Forward through everything; the gradient of activations above the lowest copy's first norm; that of the copies'
        weights. Attention is causal: a query sees half of a sequence of `tokens` on average."""
        attention = 2 * 2 * self.heads * self.head_dim * tokens / 2
        below = self.after()[0] + 1
        above = self.layers - below + self.copies
        forward = (below + above) * (2 * self.matrices() + attention) + 2 * self.table()
        gradient = above * (2 * self.matrices() + 2 * attention) + 2 * self.table()
        weights = 2 * self.copies * self.matrices()
        # The gradient of the lowest copy's inputs goes nowhere further: its first norm trains, so all its products count.
        return forward + gradient + weights


@dataclasses.dataclass(frozen=True)
class Machine:
    """Peaks of the data sheet, per GPU and direction; docs/cost-model.md names the sources."""

    name: str
    memory: float
    matmul_flops: float
    link: float  # bytes/s, between the GPUs of a host
    network: float  # bytes/s, between hosts
    per_host: int = 8
    efficiency: float = 0.4  # as in adept plan

    def bandwidth(self, ranks):
        return self.link if ranks <= self.per_host else self.network

    def rate(self):
        return self.efficiency * self.matmul_flops


LLAMA_8B = Shape("8 B", 32, 4096, 32, 8, 14336, 128_256, copies=4)
LLAMA_70B = Shape("70 B", 80, 8192, 64, 8, 28672, 128_256, copies=8)
H100 = Machine("H100 SXM", 80e9, 989 * TERA, 450 * GIGA, 50 * GIGA)


def share(ranks):
    """What a ring moves of a tensor: each rank sends all parts but one."""
    return (ranks - 1) / ranks


def memory(shape, ranks, sharded=False):
    """Bytes of a rank, without activations."""
    trained = shape.trained()
    layers = shape.layers * shape.layer()
    held = layers / ranks + 2 * shape.layer() if sharded else layers
    return {
        "base": BF16 * (held + shape.base() - layers),
        "copies": BF16 * trained if ranks > 1 else 0,  # one rank computes with the masters
        "masters": FP32 * trained / ranks,  # ZeRO-1
        "gradients": FP32 * trained,
        "moments": 2 * FP32 * trained / ranks,
    }


def gradient_bytes(shape, ranks):
    """Sent by a rank in a step: gradients twice (reduce-scatter and all-gather) in fp32, updated weights once."""
    return (2 * FP32 + BF16) * shape.trained() * share(ranks)


def base_bytes(shape, ranks):
    """Received by a rank in a micro-batch with dist.shard_base: all frozen layers forward, those above the lowest copy again
    backward."""
    above = shape.layers - shape.after()[0] - 1
    return BF16 * (shape.layers + above) * shape.layer() * share(ranks)


def break_even(shape, machine, ranks, tokens, sent):
    """Tokens of a rank at which the network needs as long as the GPU."""
    return sent / machine.bandwidth(ranks) * machine.rate() / shape.flops_per_token(tokens)


def describe(shape, machine, ranks, tokens, rows):
    """A column: the step of `rows` sequences of `tokens` a rank, one micro-batch."""
    whole, sharded = memory(shape, ranks), memory(shape, ranks, sharded=True)
    per_token = shape.flops_per_token(tokens)
    seconds = rows * tokens * per_token / machine.rate()
    network = machine.bandwidth(ranks)
    gradients, base = gradient_bytes(shape, ranks), base_bytes(shape, ranks)
    gb = lambda size: f"{size / GIGA:.1f} GB"
    updated = lambda parts: parts["masters"] + parts["moments"]
    return {
        "parameters, trained": f"{shape.base() / GIGA:.2f} B, {shape.trained() / GIGA:.2f} B in {shape.copies} copies",
        "base, whole": gb(whole["base"]),
        "base, `dist.shard_base`": gb(sharded["base"]),
        "copies in bf16, and their gradients": gb(whole["copies"] + whole["gradients"]),
        "masters and moments, one rank / ZeRO-1": f"{gb(updated(memory(shape, 1)))} / {gb(updated(whole))}",
        "sum without activations, whole base": gb(sum(whole.values())),
        "the same, `dist.shard_base`": gb(sum(sharded.values())),
        "operations of a token": f"{per_token / GIGA:.0f} GFLOP",
        f"computation of a step of {rows} x {tokens:,} tokens a rank": f"{seconds:.2f} s",
        "gradients and updated weights: sent by a rank": f"{gb(gradients)}, {gradients / network:.2f} s",
        "sharded base: received by a rank in a micro-batch": f"{gb(base)}, {base / network:.2f} s",
        "tokens of a rank and step below which gradients bound": f"{break_even(shape, machine, ranks, tokens, gradients):,.0f}",
        "tokens of a micro-batch below which the sharded base bounds": f"{break_even(shape, machine, ranks, tokens, base):,.0f}",
    }  # fmt: skip


def table():
    columns = [(LLAMA_8B, 8), (LLAMA_70B, 64)]
    cells = [describe(shape, H100, ranks, 4096, 4) for shape, ranks in columns]
    lines = ["| | " + " | ".join(f"{shape.name}, {ranks} x {H100.name}" for shape, ranks in columns) + " |",
             "|---" * (len(columns) + 1) + "|"]  # fmt: skip
    lines += [f"| {name} | " + " | ".join(cell[name] for cell in cells) + " |" for name in cells[0]]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

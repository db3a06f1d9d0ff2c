"""The page of what programs need on simulated devices, and what H100s would do, on paper."""

from typing import Any

TFLOPS, SHARE = 990e12, 0.4
NVLINK, CARD = 450e9, 50e9

ASSUMPTIONS = f"""\
**Estimate, not measured.** A step's seconds on H100s are the operations of its matrix products over
{SHARE} (assumed) of the peak in bfloat16, {TFLOPS / 1e12:.0f} TFLOP/s without sparsity, and, after them, with no
overlap, the bytes above over the links: NVLink's {NVLINK / 1e9:.0f} GB/s a direction within a node of 8; between
nodes InfiniBand's {CARD / 1e9:.0f} GB/s a GPU, where a collective's devices on a node use their network cards
together. Bytes are taken as they are above, though a GPU should send about half of them.
Nothing else takes time here: no latency, no memory traffic, no kernel that is slower than its products."""


def estimates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a step's seconds on H100s, of the programs of language models.

    Args:
        rows: of each program and number of devices, as `simulate.py` has found them.
    """
    found = []
    for row in rows:
        if row["tokens"]:
            computing = row["flops"] / (SHARE * TFLOPS)
            sending = sum(
                x["bytes"] / _rate(x["of_several_nodes"]) for x in row["sent"]
            )
            found.append(
                {
                    "program": row["program"],
                    "gpus": row["devices"],
                    "seconds_computing": computing,
                    "seconds_sending": sending,
                    "tokens_per_second": row["tokens"] / (computing + sending),
                }
            )
    return found


def page(result: dict[str, Any]) -> str:
    """Returns the Markdown of `simulate.py`'s result."""
    rows, on_paper = result["programs"], result["estimates_not_measured"]
    held = [
        [
            *(row["program"], str(row["devices"])),
            " x ".join(f"{name} {size}" for name, size in row["mesh"].items()),
            *(_size(row["state_bytes"]), _size(row["memory"]["arguments"])),
            *(_size(row["memory"][name]) for name in ("donated", "temporary")),
            f"{row['seconds_compile']:.0f} s",
        ]
        for row in rows
    ]
    sent = [
        [row["program"], str(row["devices"]), *map(_size, _by_kind(row)), _open(row)]
        for row in rows
    ]
    estimated = [
        [
            *(row["program"], str(row["gpus"])),
            *(f"{row[f'seconds_{name}']:.2g} s" for name in ("computing", "sending")),
            f"{float(format(row['tokens_per_second'], '.2g')):,.0f}",
        ]
        for row in on_paper
    ]
    return f"""\
# Simulated devices

`cluster/simulate.py` compiles a step of each program for 8 and for 64 simulated devices of one CPU, and runs none:
abstract shapes, no weights. They compile; this is what XLA has planned for one device. Reward training has two pairs
of 1,024 tokens on every device, GRPO eight completions of 256 + 256 tokens; float32 parameters, products in
bfloat16, blocks computed again for the gradient. PPO has 16 agents, or 1,024 environments, on every device.

## What a device holds

{_table(_HELD, held)}

The state is parameters and the optimizer's two moments of each. Donated arguments are overwritten by results. The CPU computes bfloat16
in float32, so that a GPU needs less temporary memory.

## What a device sends in a step

{_table(_SENT, sent)}

Bytes sent by one device, with rings; what is in a loop counts as often as it turns. Members of a population send nothing.
Where environments are divided every device gathers the whole batch, which PPO shuffles: its temporary memory grows with the number of devices.
The CPU's program gathers weights as float32, having no bfloat16, and adds up gradients by all-reduces, of which each
device then keeps its part. XLA for GPUs should gather bfloat16, and use reduce-scatters: about half of the bytes; not seen here.

## On paper: 8 and 64 H100s

{ASSUMPTIONS}

{_table(_ESTIMATED, estimated)}
"""


_HELD = (
    "program", "devices", "mesh", "state", "arguments", "donated", "temporary",
    "compiled in",
)  # fmt: skip
_SENT = "program", "devices", "all-reduce", "all-gather", "other", ""
_ESTIMATED = (
    "program (estimate)", "H100s", "computing", "sending", "tokens/s of the step",
)  # fmt: skip


def _rate(of_several_nodes: int) -> float:
    """Bytes a second that a device sends; 0 within a node, else devices of a node."""
    return min(NVLINK, CARD * of_several_nodes) if of_several_nodes else NVLINK


def _by_kind(row: dict[str, Any]) -> tuple[int, int, int]:
    """Bytes of all-reduces, of all-gathers and of others."""
    sizes = {"all-reduce": 0, "all-gather": 0, "other": 0}
    for part in row["sent"]:
        kind = part["kind"] if part["kind"] in sizes else "other"
        sizes[kind] += part["bytes"]
    return sizes["all-reduce"], sizes["all-gather"], sizes["other"]


def _open(row: dict[str, Any]) -> str:
    count = row["open_loops"]
    return f"{count} loops of unknown length counted as one turn" if count else ""


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.995 * unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} B" if count else "0"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

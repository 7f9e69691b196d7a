"""measure_latency: how long an exported peer takes on this machine, eager, compiled and as ONNX programs, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mutual.engine.exporting.formats import onnx_program
from mutual.engine.runtime import processor_name
from mutual.recipe import first_line

BATCHES = (1, 32)
_EAGER = "eager"
_WARM_UPS = 3
_MIN_ROUNDS, _MAX_ROUNDS = 5, 50
_SECONDS = 20.0
"""About so long each size of a batch is measured."""
Variant = Callable[[Tensor], object]


@dataclass(frozen=True)
class Latency:
    """How long a batch takes.

    Attributes:
        variant: `eager`, `compiled`, `onnx` or `onnx int8`.
        batch: number of images.
        milliseconds: the median over the rounds; None where it could not be measured.
        ratio: the median over the rounds of its time divided by the eager one of the same round.
        rounds: number of rounds.
        note: why it was not measured; empty where it was.
    """

    variant: str
    batch: int
    milliseconds: float | None
    ratio: float | None
    rounds: int
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """Latencies, and on which machine.

    Attributes:
        rows: by size of the batch and variant.
        threads: of torch and of ONNX Runtime alike.
        processor: the machine's.
    """

    rows: tuple[Latency, ...]
    threads: int
    processor: str


def measure_latency(model: nn.Module, images: Callable[[int], Tensor], programs: Mapping[str, Path]) -> Benchmark:
    """Measures `model`, eager and compiled, and ONNX programs on the CPU: in each round each of them once, one after another.

    Args:
        model: in eval mode, on the CPU.
        images: returns a batch of so many images.
        programs: by variant the file of an ONNX program.
    """
    threads = torch.get_num_threads()
    compiled, fault = _compiled(model, [images(batch) for batch in BATCHES])
    variants: dict[str, Variant] = {_EAGER: model}
    if compiled is not None:
        variants["compiled"] = compiled
    variants |= {name: onnx_program(path, threads=threads) for name, path in programs.items()}
    rows: list[Latency] = []
    with torch.no_grad():
        for batch in BATCHES:
            rows += _measured(variants, images(batch), batch)
            if fault:
                rows.append(Latency("compiled", batch, None, None, 0, fault))
    return Benchmark(tuple(rows), threads, processor_name())


def _compiled(model: nn.Module, batches: Sequence[Tensor]) -> tuple[Variant | None, str]:
    """Returns the model, compiled for batches of these sizes, or why it cannot be."""
    compiled: Variant = torch.compile(model, dynamic=False)
    try:
        with torch.no_grad():
            for images in batches:
                compiled(images)
    except Exception as error:  # noqa: BLE001, compilers and the user's model raise anything where they cannot work
        return None, f"{type(error).__name__}: {first_line(error)}"
    return compiled, ""


def _measured(variants: Mapping[str, Variant], images: Tensor, batch: int) -> list[Latency]:
    for _ in range(_WARM_UPS):
        once = {name: _seconds(variant, images) for name, variant in variants.items()}
    rounds = max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(_SECONDS / max(sum(once.values()), 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            seconds[name].append(_seconds(variant, images))
    ratios = {name: [each / eager for each, eager in zip(times, seconds[_EAGER], strict=True)] for name, times in seconds.items()}
    return [
        Latency(name, batch, 1e3 * statistics.median(times), statistics.median(ratios[name]), rounds) for name, times in seconds.items()
    ]


def _seconds(variant: Variant, images: Tensor) -> float:
    start = time.perf_counter()
    variant(images)
    return time.perf_counter() - start


def latency_table(benchmark: Benchmark) -> str:
    """Returns the latencies as lines: a variant and size of a batch a line."""
    threads = "one thread" if benchmark.threads == 1 else f"{benchmark.threads} threads"
    lines = [f"latency on the CPU, {threads}, {benchmark.processor}", f"{'':12}{'batch':>6}{'ms':>10}{'of eager':>10}{'rounds':>8}"]
    for row in benchmark.rows:
        if row.milliseconds is None:
            lines.append(f"{row.variant:12}{row.batch:>6}  left out: {row.note}")
        else:
            lines.append(f"{row.variant:12}{row.batch:>6}{row.milliseconds:>10.3f}{row.ratio:>10.2f}{row.rounds:>8}")
    return "\n".join(lines)

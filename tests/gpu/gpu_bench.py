"""What `launch/gpu_check.sh` measures beside `mutual.bench`: a line of JSON for each figure.

    python tests/gpu/gpu_bench.py environment | loop | four | busy | settings [--rounds 10] [--small]

All that is compared is measured in turn in one process, and ratios are medians over the rounds. `--small` is for trying it out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import timm
import torch
import torch.nn.functional as F
import torchvision
from gpu_support import build_on, document_of
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from torch.profiler import ProfilerActivity, profile

from mutual.group import room_for_graphs
from mutual.recipe import parse_recipe

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
SETTINGS = {
    "eager": {},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "compile": {"compile": True},
    "compile, bf16, channels_last": {"compile": True, "precision": "bf16", "channels_last": True},
    "reduce-overhead, bf16, channels_last": {
        "compile": True,
        "compile_mode": "reduce-overhead",
        "precision": "bf16",
        "channels_last": True,
    },
}
"""TF32 is a switch of the process, and is measured by `mutual.bench` in a process of its own."""
MODELS = {
    "2 x resnet18, 32 px": (2, "torchvision/resnet18", {"image_size": 32, "channels": 3, "batch_size": 64}),
    "2 x resnet18, 224 px": (2, "torchvision/resnet18", {"image_size": 224, "channels": 3, "batch_size": 64}),
    "2 x pplcnet_x1_0, 64 px": (2, "pplcnet_x1_0", {"image_size": 64, "channels": 3, "batch_size": 32}),
    "4 x light_nn, 32 px": (4, "light_nn", {"image_size": 32, "channels": 3, "batch_size": 64}),
    "8 x small_cnn, 28 px": (8, "small_cnn", {"image_size": 28, "channels": 1, "batch_size": 64}),
}


def group_document(num_peers, model, data, *, num_batches=2, **train):
    """Peers of one model that learn from labels and, where there are several, from each other."""
    objectives = [{"loss": "cross_entropy"}, *([{"loss": "dml"}] if num_peers > 1 else [])]
    sizes = {"num_classes": 10, "num_train": num_batches * data["batch_size"], "num_val": 8}
    optimizer = {"name": "sgd", "lr": 0.01, "momentum": 0.9}
    peers = {name: {"model": model} for name in "abcdefgh"[:num_peers]}
    return {**document_of(peers=peers, objectives=objectives, data={**data, **sizes}, train=train), "optimizer": optimizer}


class Update:
    """An update of a recipe on its first window, again and again."""

    def __init__(self, document):
        self._training = build_on(DEVICE, document)
        self._window = next(self._training.windows(0))
        list(self._window.batches)
        self._training.data.close()
        self._training.group.train()
        self._index = 0

    def __call__(self):
        self._training.train_step(self._window, self._index, measure=False)
        self._index += 1


def synchronize():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(run, *, repeats=1):
    """The seconds of `repeats` calls, with the device's work."""
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize()
    return time.perf_counter() - start


def in_turn(runs, *, rounds, repeats=1, warmup=3):
    """By name the median seconds of a call, and the median of its ratios to the first, every other round in reverse order."""
    for run in runs.values():
        for _ in range(warmup):
            run()
    times = {name: [] for name in runs}
    for index in range(rounds):
        for name in list(runs)[:: 1 if index % 2 else -1]:
            times[name].append(seconds(runs[name], repeats=repeats) / repeats)
    first = next(iter(times.values()))
    return {
        name: {"seconds": statistics.median(each), "ratio": statistics.median(own / one for own, one in zip(each, first, strict=True))}
        for name, each in times.items()
    }


def environment(options):
    """Versions, driver and device."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
    found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "device": str(DEVICE)}
    if DEVICE.type == "cuda":
        properties = torch.cuda.get_device_properties(DEVICE)
        found |= {"gpu": properties.name, "gpus": torch.cuda.device_count(), "memory_gb": round(properties.total_memory / 1e9, 1)}
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(DEVICE)))
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        try:
            found["driver, clock, power"] = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            found["driver, clock, power"] = f"unknown: {error}"
    show("environment", found)


def loop(options):
    """Images a second of one peer against timm's loop: its model, prefetching loader, optimizer and the lines of its train.py.

    Both go through the same number of images in memory, of the same size, with bf16 and channels_last; ours with its own loader.
    """
    size, batch_size, num_batches = (32, 8, 2) if options.small else (224, 128, 12)
    num_images, peer = num_batches * batch_size, "timm/resnet18"
    data = {"image_size": size, "channels": 3, "batch_size": batch_size}
    for name, compiled in (("eager", False), ("compile", True))[: 1 if options.small else 2]:
        document = group_document(1, peer, data, num_batches=num_batches, precision="bf16", channels_last=True, compile=compiled)
        training = build_on(DEVICE, document)
        training.group.train()
        epochs = iter(range(10**6))

        def ours(training=training, epochs=epochs):
            for update, window in enumerate(training.windows(next(epochs))):
                training.train_step(window, update, measure=False)

        runs = {"timm": timm_epoch(size, batch_size, num_batches, compiled=compiled), "mutual": ours}
        found = in_turn(runs, rounds=options.rounds, warmup=2)
        training.close()
        rates = {key: num_images / each["seconds"] for key, each in found.items()}
        show("one peer against timm's loop", {"form": name, "images_per_second": rates, "mutual / timm": 1 / found["mutual"]["ratio"]})


def timm_epoch(size, batch_size, num_batches, *, compiled):
    """An epoch as timm's train.py runs it, without its logging."""
    model = timm.create_model("resnet18", num_classes=10).to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=0.0)
    forward = torch.compile(model) if compiled else model
    batches = [
        (torch.randint(256, (batch_size, 3, size, size), dtype=torch.uint8), torch.randint(10, (batch_size,))) for _ in range(num_batches)
    ]
    if DEVICE.type == "cuda":
        batches = [(images.pin_memory(), labels.pin_memory()) for images, labels in batches]
    loader = PrefetchLoader(batches, device=DEVICE)

    def epoch():
        for images, labels in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
                loss = F.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def four(options):
    """Four small equal peers in one update against four updates of one: what four runs one after another take."""
    for model, data in (
        ("light_nn", {"image_size": 32, "channels": 3, "batch_size": 64}),
        ("small_cnn", {"image_size": 28, "channels": 1, "batch_size": 64}),
    ):
        for name, train in list(SETTINGS.items())[: 1 if options.small else None]:
            documents = {number: group_document(number, model, data, **train) for number in (1, 4)}
            found = measured(
                {f"{number} peers": document for number, document in documents.items()}, options, repeats=2 if options.small else 10
            )
            if found is not None:
                ratio = found["4 peers"]["ratio"] / 4
                show("4 equal peers / 4 runs", {"model": model, "settings": name, "ratio": ratio, **found})


def settings(options):
    """Updates of each recipe under each setting, as ratios to eager."""
    for name, (number, model, data) in list(MODELS.items())[: 1 if options.small else None]:
        for label, train in list(SETTINGS.items())[1 : 3 if options.small else None]:
            documents = {"eager": group_document(number, model, data), label: group_document(number, model, data, **train)}
            found = measured(documents, options)
            if found is not None:
                show("settings", {"recipe": name, **found})


def measured(documents, options, *, repeats=1):
    """What `in_turn` gives for these recipes; None where one of them is no recipe yet."""
    torch._dynamo.reset()
    try:
        recipes = [parse_recipe(document) for document in documents.values()]
    except ValueError as error:
        show("left out", {"reason": str(error)})
        return None
    with room_for_graphs(recipes):
        return in_turn({name: Update(document) for name, document in documents.items()}, rounds=options.rounds, repeats=repeats, warmup=5)


def busy(options):
    """The share of the time in which the GPU computes something, and the kernels of an update."""
    num_updates = 3 if options.small else 20
    for name in list(MODELS)[: 1 if options.small else None]:
        number, model, data = MODELS[name]
        for label in ("eager", "bf16, channels_last", "compile"):
            document = group_document(number, model, data, **SETTINGS[label])
            if options.small and label != "eager":
                continue
            torch._dynamo.reset()
            with room_for_graphs([parse_recipe(document)]):
                update = Update(document)
                for _ in range(5):
                    update()
                wall = seconds(update, repeats=num_updates) / num_updates
                activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE.type == "cuda" else [])]
                with profile(activities=activities) if DEVICE.type == "cuda" else nullcontext() as trace:
                    seconds(update, repeats=num_updates)
            spans = [] if trace is None else [each.time_range for each in trace.events() if is_on_gpu(each)]
            found = {"recipe": name, "settings": label, "ms_an_update": 1e3 * wall}
            if spans:
                busy_us, window_us = union([(span.start, span.end) for span in spans])
                # profiling slows the host down; without it the device computes as long, in the shorter time
                found |= {"kernels_an_update": len(spans) / num_updates, "busy_while_profiled": busy_us / window_us}
                found["busy"] = min(busy_us / num_updates / (1e6 * wall), 1.0)
            show("GPU busy", found)


def is_on_gpu(event):
    """A kernel or a copy; ranges that Python names are mirrored on the device, and are none."""
    return event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation


def union(spans):
    """The length of the union of intervals, and from the first begin to the last end."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total, end - min(start for start, _ in spans)


def show(figure, values):
    print(json.dumps({"figure": figure, **values}), flush=True)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["environment", "loop", "four", "busy", "settings"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="a little of it")
    arguments = parser.parse_args()
    globals()[arguments.part](arguments)

"""Findings and comparisons that are made by hand, for tests of the pages."""

import base64
import io
import math
from itertools import combinations

from PIL import Image

from mutual.engine.comparison import ArmSummary, Comparison, Difference, EqualCompute, MetricSummary
from mutual.engine.report import EdgeFinding, Findings, ImageFinding, MemberFindings, PairFindings, ReliabilityDiagram
from mutual.engine.storage import RunSummary
from mutual.recipe import parse_recipe

HOSTILE = [
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "</style></title><img src=x onerror=alert(1)>",
    "\u202egnp.exe \u05d0\u05d1",
    "two\nlines\r\n\x00\x1b[31m",
    "long " * 200,
    "javascript:alert(1)",
    "&lt;b&gt; 'quoted' \udcff",
]
"""Names of classes that try to be more than names."""


def reliability(shift=0.0, *, bins=10):
    confidences = [(index + 0.5) / bins for index in range(bins)]
    accuracies = [min(1.0, max(0.0, each + shift * (1 - each))) for each in confidences]
    return ReliabilityDiagram(
        [0, *(3 * index**2 for index in range(1, bins))], [None, *confidences[1:]], [None, *accuracies[1:]], abs(shift) / 2, 0.3
    )


def png(shade):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((28, 28)).point(lambda value: (value + shade) % 256).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def member(name, class_names, rank=0, *, is_frozen=False, matrix=True):
    size = len(class_names)
    counts = [
        [(40 - 3 * rank if row == column else (row * 7 + column * 3 + rank) % 5 // 3) for column in range(size)] for row in range(size)
    ]
    top1 = 0.95 - 0.03 * rank
    return MemberFindings(
        name=name,
        is_frozen=is_frozen,
        model="" if name == "ensemble" else "pplcnet_x0_25",
        num_parameters=1_234_567 * (rank + 1),
        flops=8.1e7,
        scores={"top1": top1, "macro_top1": top1 - 0.01, "top5": 0.99, "nll": 0.2 + 0.1 * rank, "ece": 0.06},
        reliability=reliability(-0.2),
        temperature=1.37,
        scaled=reliability(-0.02),
        confusion=counts if matrix else [],
        confused=[(class_names[0], class_names[-1], 9), (class_names[-1], class_names[0], 4)],
        per_class={
            each: {"support": 40.0, "recall": 0.9 - 0.01 * index % 0.5, "precision": 0.88, "f1": 0.89}
            for index, each in enumerate(class_names)
        },
        churn={epoch: 0.5 / epoch for epoch in range(2, 13)},
    )


def history(learners, teachers, epochs, pairs):
    rows = []
    for epoch in range(1, epochs + 1):
        scores = {
            each: {"top1": 1 - 0.9 / (epoch + 1 + index), "nll": 2.0 / (epoch + index) + 0.1, "ece": 0.1}
            for index, each in enumerate(learners)
        }
        scores |= {each: {"top1": 0.97, "nll": 0.12, "ece": 0.03} for each in teachers}
        scores |= {"ensemble": {"top1": 1 - 0.8 / (epoch + 1), "nll": 1.8 / epoch + 0.1, "ece": 0.15}} if len(learners) > 1 else {}
        scores |= {"pairs": {"agreement": 0.8, "kl": 0.3}} if pairs else {}
        train = {
            "images_per_second": 6000.0 + 500 * math.sin(epoch),
            "loss": {each: 3.0 / (epoch + index) for index, each in enumerate(learners)},
            "top1": {each: 1 - 0.8 / (epoch + index + 1) for index, each in enumerate(learners)},
            "objectives": {"cross_entropy": 2.0 / epoch, "dml": 0.5 / epoch},
        }
        rows.append({"epoch": epoch, "step": 23 * epoch, "train": train, "eval": scores})
    return rows


def findings(peers=("a", "b", "c"), teachers=("teacher",), class_names=None, *, epochs=12, matrix=True, **changes):
    """A run of `peers` that learn from each other and from `teachers`."""
    class_names = [f"class {index}" for index in range(10)] if class_names is None else list(class_names)
    members = [member(each, class_names, rank, matrix=matrix) for rank, each in enumerate(peers)]
    members += [member(each, class_names, is_frozen=True, matrix=matrix) for each in teachers]
    members += [member("ensemble", class_names, matrix=matrix)] if len(peers) > 1 else []
    at = range(1, epochs + 1)
    pairs = [
        PairFindings(
            first=first,
            second=second,
            agreement=0.8 + 0.02 * (index + other),
            kl=0.1 * (1 + other - index),
            agreement_by_epoch={epoch: 1 - 0.5 / (epoch + index + other) for epoch in at},
            kl_by_epoch={epoch: (1 + index) / (epoch + other) for epoch in at},
            cka={(f"blocks{row}", f"blocks{column}"): 1 / (1 + abs(row - column)) for row in range(1, 5) for column in range(1, 5)},
            reverse_kl=0.2 * (1 + other - index),
            reverse_kl_by_epoch={epoch: (1 + other) / (epoch + index) for epoch in at},
        )
        for (index, first), (other, second) in combinations(enumerate([*peers, *teachers]), 2)
    ]
    edges = [EdgeFinding(each, "labels", "cross_entropy", "logits", 1.0) for each in peers]
    edges += [EdgeFinding(first, second, "dml", "logits", 1.0) for first in peers for second in peers if first != second]
    edges += [EdgeFinding(each, teacher, "kd", "logits", 0.5) for each in peers for teacher in teachers]
    predictions = {each: (class_names[rank % len(class_names)], 0.9 - 0.05 * rank) for rank, each in enumerate(peers)}
    shown = [ImageFinding(png(20 * index), class_names[index % len(class_names)], predictions, f"{index}") for index in range(8)]
    found = {
        "folder": "runs/demo",
        "recipe": parse_recipe(
            {
                "name": "demo",
                "peers": {"a": {"model": "pplcnet_x0_25"}},
                "objectives": [{"loss": "cross_entropy"}],
                "train": {"epochs": epochs},
            }
        ),
        "best_peer": peers[0],
        "reason": f"{peers[0]} has the best validation top-1 of the trained peers: 95.00 %, 3.00 points ahead of the next.",
        "split": "val",
        "num_images": 400,
        "members": members,
        "pairs": pairs,
        "edges": edges,
        "history": history(peers, teachers, epochs, pairs),
        "disagreements": shown,
        "mistakes": shown[:4],
        "recipe_text": "name: demo\nseed: 0\n",
        "changes": [("train.epochs", "30", "60")],
        "environment": {"python": "3.11.7", "torch": "2.15.0", "device": "cpu"},
        "summary": RunSummary(epoch=epochs, update=23 * epochs, processes=1, device="cpu", peak_bytes=902_660_096, sent_bytes=0.0),
        "test": {each: {"top1": 0.94, "nll": 0.21} for each in peers},
        "class_names": class_names,
        "notes": ["Validation chose the epoch, so that its scores are a little optimistic."],
    }
    return Findings(**{**found, **changes})


def arm(name, top1, nll, *, seeds, runs=None, **changes):
    """An arm whose scores vary by seed around these."""
    metrics = {}
    for metric, mean, width in (("top1", top1, 0.004), ("nll", nll, 0.01)):
        values = {seed: mean + width * math.sin(3 * seed + len(name)) for seed in seeds}
        metrics[metric] = MetricSummary(values=values, mean=sum(values.values()) / len(values), std=width if len(values) > 1 else None)
    found = {
        "name": name,
        "member": "mean",
        "runs": {seed: f"{name}-seed{seed}" for seed in seeds} if runs is None else runs,
        "metrics": metrics,
        "epochs": 30,
        "flops": 3.2e13,
        "images": 30 * 1437,
    }
    return ArmSummary(**{**found, **changes})


def difference(arm_name, metric, mean, verdict, *, num_pairs, baseline="independent"):
    interval = None if num_pairs < 2 else (mean - 0.3 * abs(mean) - 0.001, mean + 0.3 * abs(mean) + 0.001)
    return Difference(
        arm=arm_name,
        baseline=baseline,
        metric=metric,
        num_pairs=num_pairs,
        mean=mean,
        std=None if num_pairs < 2 else 0.01,
        interval=interval,
        p_sign_flip=2 / 2**num_pairs,
        p_holm=4 / 2**num_pairs,
        verdict=verdict,
    )


def comparison(num_seeds=6, **changes):
    """DML against its peers alone: better in NLL, and not better than one peer that is trained for longer."""
    seeds = list(range(num_seeds))
    verdicts = ("better", "not shown", "not shown") if num_seeds > 5 else ("too few seeds",) * 3
    arms = [
        arm("independent", 0.902, 0.31, seeds=seeds, control="independent", note="the same peers, no edges"),
        arm("dml_t4", 0.906, 0.235, seeds=seeds),
        arm("dml_t1", 0.903, 0.30, seeds=seeds),
        arm("longer", 0.907, 0.23, seeds=seeds, control="longer", epochs=71, note="one peer, 71 epochs in place of 30"),
    ]
    differences = [
        difference(name, metric, mean, verdict, num_pairs=num_seeds)
        for name, values in (("dml_t4", (0.004, -0.075)), ("dml_t1", (0.001, -0.01)), ("longer", (0.005, -0.08)))
        for metric, mean, verdict in zip(
            ("top1", "nll"), values, (verdicts[1], verdicts[0] if name != "dml_t1" else verdicts[2]), strict=True
        )
    ]
    found = {
        "name": "dml_t4",
        "command": "python -m mutual.compare recipes/dml_pplcnet.yaml objectives.1.temperature=1,4 --seeds 0:6 --control longer",
        "baseline": "independent",
        "seeds": seeds,
        "split": "test",
        "epoch": "best",
        "is_optimistic": False,
        "arms": arms,
        "differences": differences,
        "equal_compute": [EqualCompute(arm="dml_t4", metric="nll", beats_independent=True, beats_equal_compute=False)],
        "notes": ["Six seeds: the smallest p-value that a sign-flip test can give is 0.031."],
    }
    return Comparison(**{**found, **changes})

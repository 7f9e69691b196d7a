"""Run by torchrun in W processes: every case trained in both placements, compared on rank 0 (invariant 5)."""

import json
import sys
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from support import charted, tiny_document

import mutual
from mutual.recipe import parse_recipe

PEERS = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 6}}}
TWINS = {name: {"model": "support:double"} for name in "abc"}
TEACHER = {"model": "support:double", "frozen": True, "args": {"norm": True, "width": 5}}
HEADLESS = {"model": "support:embedding", "frozen": True, "head": "none", "standardize": True}
CE = {"loss": "cross_entropy"}
EMBEDDED = [
    CE,
    {"loss": "similarity", "sources": ["t"], "at": "body", "source_at": "embedding"},
    {"loss": "similarity", "sources": ["a"], "learners": ["b"], "at": "body"},
    {"loss": "pefd", "sources": ["t"], "at": "body", "source_at": "embedding"},
    {"loss": "crd", "sources": ["t"], "at": "body", "source_at": "stem"},
]
EVERYTHING = [
    CE,
    {"loss": "dml", "gate": "correct"},
    {"loss": "l2", "at": "body"},
    {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "min_logit", "own": True}},
    {"loss": "okddip", "at": "body", "schedule": {"name": "linear"}},
    {"loss": "crd", "at": "body"},
    {"loss": "ssld", "sources": "peers_ema"},
]
AVERAGED = {"epochs": 2, "progress": False, "ema": 0.9}
CASES = {
    2: {
        "two peers": {"peers": PEERS, "objectives": [CE, {"loss": "dml"}]},
        "features and adapters, accumulated": {
            "peers": PEERS,
            "objectives": [CE, {"loss": "hint", "at": "body"}],
            "train": {"epochs": 2, "progress": False, "accumulate": 2},
        },
        "three peers, everything": {"peers": TWINS, "objectives": EVERYTHING, "train": AVERAGED},
        "three peers, one backward each": {"peers": TWINS, "objectives": EVERYTHING, "train": {**AVERAGED, "backward": "per_peer"}},
        "a frozen teacher": {"peers": {**PEERS, "t": TEACHER}, "objectives": [CE, {"loss": "hint", "at": "body", "sources": ["t"]}]},
        "a teacher without a head": {"peers": {**PEERS, "t": HEADLESS}, "objectives": EMBEDDED},
        "a view for each peer": {
            "peers": {**TWINS, "t": TEACHER},
            "objectives": [CE, {"loss": "dml", "sources": ["a", "b"], "learners": ["c"]}, {"loss": "kd", "sources": ["t"]}],
            "data": {"views": "per_peer", "augment": [{"name": "random_crop", "padding": 2}], "workers": 1},
        },
        "frozen parts": {
            "peers": {
                "a": {"model": "support:double", "args": {"norm": True}, "freeze": ["stem", "norm"]},
                "b": {"model": "support:double", "args": {"norm": True, "dropout": 0.5}, "train_only": ["head"]},
            },
            "objectives": [CE, {"loss": "dml"}, {"loss": "hint", "at": {"a": "body", "b": "stem"}, "learners": ["a"]}],
            "train": AVERAGED,
        },
        "two students share a teacher, accumulated": {
            "peers": {**PEERS, "t": {**TEACHER, "forward_batch": 5}},
            "objectives": [CE, {"loss": "kd", "sources": ["t"]}, {"loss": "crd", "at": "body", "sources": ["t"]}],
            "train": {"epochs": 2, "progress": False, "accumulate": 2},
            "data": {"num_train": 33},
        },
        "a peer that learns by features alone": {
            "peers": TWINS,
            "objectives": [{"loss": "l2", "at": "body"}, {**CE, "learners": ["a"]}],
        },
    },
    3: {
        "two peers": {"peers": PEERS, "objectives": [CE, {"loss": "dml"}, {"loss": "crd", "at": "body"}]},
        "two ranks for the second": {
            "peers": {**PEERS, "b": {**PEERS["b"], "ranks": 2}},
            "objectives": [CE, {"loss": "dml"}, {"loss": "hint", "at": "body"}],
        },
        "three peers, everything": {"peers": TWINS, "objectives": EVERYTHING, "train": AVERAGED},
        "students on one rank and on two share a teacher": {
            "peers": {**PEERS, "b": {**PEERS["b"], "ranks": 2}, "t": TEACHER},
            "objectives": [CE, {"loss": "kd", "sources": ["t"], "gate": "correct"}, {"loss": "crd", "at": "body", "sources": ["t"]}],
            "data": {"num_train": 38},
        },
        "a teacher on a rank of its own": {
            "peers": {**PEERS, "t": {**TEACHER, "rank": "own"}},
            "objectives": [CE, {"loss": "kd", "sources": ["t"]}, {"loss": "hint", "at": "body", "sources": ["t"]}],
        },
        "a teacher without a head on a rank of its own": {"peers": {**PEERS, "t": {**HEADLESS, "rank": "own"}}, "objectives": EMBEDDED},
    },
    4: {"two peers": {"peers": PEERS, "objectives": [CE, {"loss": "dml"}, {"loss": "l2"}, {"loss": "hint", "at": "body"}]}},
}


def weights(folder):
    return {path.stem: safetensors.torch.load_file(path) for path in sorted((folder / "last").iterdir())}


def trained(case, name, placement, output):
    document = tiny_document(**{"train": {"epochs": 2, "progress": False}, **case, "name": f"{name}_{placement}", "placement": placement})
    document["train"] = {**document["train"], "log_every": 1}
    document["data"] = {**tiny_document()["data"], "num_train": 37, "num_val": 13, "batch_size": 4, **case.get("data", {})}
    document["output"] = str(output)
    if placement == "replicated":
        document["peers"] = {
            peer: {key: value for key, value in spec.items() if key not in ("rank", "ranks")} for peer, spec in case["peers"].items()
        }
    return mutual.fit(parse_recipe(document))


def gradients(folder):
    """The norm of each peer's gradient in every update."""
    return {tag: [event.value for event in events] for tag, events in charted(folder).items() if tag.startswith("optimizer/grad_norm/")}


def compare(first, second):
    norms = [gradients(result.folder) for result in (first, second)]
    assert norms[0].keys() == norms[1].keys()
    for key, values in norms[0].items():
        assert len(values) >= 6
        torch.testing.assert_close(torch.tensor(norms[1][key]), torch.tensor(values), rtol=1e-6, atol=1e-6, msg=key)
    for peer, tensors in weights(first.folder).items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(weights(second.folder)[peer][key], tensor, rtol=1e-10, atol=1e-10, msg=f"{peer} {key}")
    last = [json.loads((result.folder / "metrics.jsonl").read_text().splitlines()[-1]) for result in (first, second)]
    for kind in ("objectives", "loss", "top1"):
        for key, value in last[0]["train"][kind].items():
            assert abs(last[1]["train"][kind][key] - value) < 1e-6, (kind, key)
    for member, row in last[0]["eval"].items():
        for key, value in row.items():
            assert abs(last[1]["eval"][member][key] - value) < 1e-6, (member, key)


def main():
    size = None
    for number, (name, case) in enumerate(CASES[int(sys.argv[1])].items()):
        results = [trained(case, f"case{number}", placement, Path(sys.argv[2])) for placement in ("replicated", "parallel")]
        size, rank = dist.get_world_size(), dist.get_rank()
        assert size == int(sys.argv[1])
        dist.barrier()
        if rank == 0:
            compare(*results)
            print(f"equal: {name}", flush=True)  # noqa: T201
        dist.barrier()


if __name__ == "__main__":
    main()

"""Run by torchrun: losses written anew train, in both placements, as ours do; compared on rank 0."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from placement_checks import AVERAGED, CE, TEACHER, TWINS, compare, trained, weights

OWN = {"hint": "Hint", "crd": "Contrast"}
OBJECTIVES = [
    CE,
    {"loss": "kd", "gate": "correct"},
    {"loss": "wsl", "sources": "ensemble", "schedule": {"name": "linear"}},
    {"loss": "hint", "at": "body", "sources": ["t"]},
    {"loss": "crd", "at": "body", "learners": ["a", "b"]},
    {"loss": "similarity", "at": "body"},
]
CASE = {"optimizer": {"name": "sgd", "lr": 0.02}, "peers": {**TWINS, "t": TEACHER}, "train": {**AVERAGED, "accumulate": 2}}


def main():
    anew = [{**each, "loss": f"own_losses:{OWN.get(each['loss'], each['loss'])}"} for each in OBJECTIVES]
    folder = Path(sys.argv[1])
    ours = {placement: trained({**CASE, "objectives": OBJECTIVES}, "ours", placement, folder) for placement in ("replicated", "parallel")}
    own = {placement: trained({**CASE, "objectives": anew}, "own", placement, folder) for placement in ours}
    assert dist.get_world_size() == 2
    dist.barrier()
    if dist.get_rank() == 0:
        for placement, result in own.items():
            for peer, tensors in weights(ours[placement].folder).items():
                for key, tensor in tensors.items():
                    found = weights(result.folder)[peer][key]
                    torch.testing.assert_close(found, tensor, rtol=1e-10, atol=1e-10, msg=f"{placement} {peer} {key}")
        compare(*own.values())
        print("equal", flush=True)  # noqa: T201
    dist.barrier()


if __name__ == "__main__":
    main()

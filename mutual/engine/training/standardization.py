"""standardize_embeddings: the mean and standard deviation of embeddings, estimated once over training images before the first update.

They are a function of the recipe and the data alone (frozen peers, counted images), so that no checkpoint holds them. Fixed statistics keep
accumulation and ranks exact, which running ones would not.
"""

from __future__ import annotations

import torch

from mutual.data import DataModule
from mutual.engine.evaluation import embedded
from mutual.engine.monitoring import with_rank
from mutual.group import Communicator, Group

NUM_IMAGES = 2_048
"""At most so many training images are looked at."""
_NEGLIGIBLE = 1e-12
"""Variance, as a fraction of the mean square, that is rounding and not the images'."""


@torch.no_grad()
def standardize_embeddings(group: Group, data: DataModule, comm: Communicator, *, names: tuple[str, ...]) -> None:
    """Makes the embeddings of the peers `names` have mean 0 and standard deviation 1 in each dimension (arXiv:2410.01680, section 3.1).

    A dimension that is the same for all images is divided by 1. Collective: all ranks must call it.
    """
    if not names:
        return
    dtype = torch.float32 if comm.device.type == "mps" else torch.float64
    sums = {name: torch.zeros(2, group.embedding_spec(name)[0], dtype=dtype, device=comm.device) for name in names}
    counts = {name: torch.zeros((), dtype=dtype, device=comm.device) for name in names}
    batches = with_rank(data.sample_batches(NUM_IMAGES, world_size=comm.size, shard=group.shard), comm)
    for batch in embedded(group, batches, device=comm.device):
        for name in sums.keys() & batch.embeddings.keys():
            embedding_BD = batch.embeddings[name].to(dtype)
            sums[name] += torch.stack([embedding_BD.sum(dim=0), embedding_BD.square().sum(dim=0)])
            counts[name] += len(embedding_BD)
    for name in names:
        mean_D, square_D = comm.all_reduce_sum(sums[name]) / comm.all_reduce_sum(counts[name])
        if name in group.peers:
            variance_D = (square_D - mean_D.square()).clamp(min=0)
            is_constant_D = variance_D <= _NEGLIGIBLE * square_D
            std_D = torch.where(is_constant_D, 1.0, variance_D.sqrt())
            kept = group.embedding_spec(name)[1]
            group.peers[name].tapped.standardize(mean_D.to(kept), std_D.to(kept))

"""Jobs of a codistillation: which peers this launch trains, and which part of a recipe they use."""

from __future__ import annotations

from mutual.commandline import launched_rank
from mutual.group import init_job_process_group
from mutual.recipe import Objective, Recipe


def split_launch(recipe: Recipe) -> Recipe:
    """Returns the recipe of the job that this process belongs to. Collective: all processes of the launch must call it.

    One launch may train all peers of a stale exchange. Its processes are then divided into one job for each peer, with a run
    folder `NAME_PEER` of its own and no common process group: no job waits for another.

    Raises:
        RecipeError: the recipe names no peers to train, and the processes cannot be divided.
    """
    exchange, peers = recipe.exchange, recipe.trainable
    if exchange.kind != "stale" or exchange.trains:
        return recipe
    rank, size = launched_rank()
    if size % len(peers):
        raise recipe.error(
            "exchange.trains",
            f"say which peers this job trains, of {', '.join(peers)}; or start a multiple of {len(peers)} processes, to train all",
        )
    job_index, rank = divmod(rank, size // len(peers))
    try:
        init_job_process_group(f"job/{peers[job_index]}", rank=rank, size=size // len(peers), timeout=recipe.train.timeout_seconds)
    except ValueError as error:
        raise recipe.error("exchange.trains", f"{error}; or say which peers this job trains") from error
    update = {"name": f"{recipe.name}_{peers[job_index]}", "exchange": exchange.model_copy(update={"trains": [peers[job_index]]})}
    return recipe.model_copy(update=update)


def restrict_to_job(recipe: Recipe) -> Recipe:
    """Returns the recipe of this job where the exchange is stale: its own peers are trained, the others only teach."""
    exchange = recipe.exchange
    if exchange.kind != "stale":
        return recipe
    trains = tuple(exchange.trains or ())
    remote = [name for name in recipe.trainable if name not in trains]
    frozen: dict[str, object] = {
        "frozen": True,
        "optimizer": None,
        "schedule": None,
        "train_only": [],
        "freeze": [],
        "activation_checkpointing": False,
    }
    peers = {name: peer.model_copy(update=frozen) if name in remote else peer for name, peer in recipe.peers.items()}
    objectives = [kept for objective in recipe.objectives if (kept := _restrict_objective(objective, trains)) is not None]
    reads = [*remote, *(name for name in exchange.reads if name not in remote)]
    update = {"peers": peers, "objectives": objectives, "exchange": exchange.model_copy(update={"reads": reads})}
    return recipe.model_copy(update=update)


def _restrict_objective(objective: Objective, trains: tuple[str, ...]) -> Objective | None:
    if objective.learners is None:
        return objective
    learners = [name for name in objective.learners if name in trains]
    return objective.model_copy(update={"learners": learners}) if learners else None

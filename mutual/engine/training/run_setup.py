"""build_trainer: from a recipe and a run folder to a trainer with all its parts."""

from __future__ import annotations

from collections.abc import Sequence

from mutual.engine.codistillation import WeightExchange
from mutual.engine.monitoring import SkippedImages, StragglerMonitor, Tracker, TrafficMeter
from mutual.engine.runtime import Environment
from mutual.engine.storage import RunFolder
from mutual.engine.training.best_weights import BestWeights
from mutual.engine.training.callbacks import Callback, Callbacks
from mutual.engine.training.checkpoint_saver import CheckpointSaver
from mutual.engine.training.checkpointer import Checkpointer
from mutual.engine.training.early_stopping import EarlyStopping
from mutual.engine.training.final_scoring import FinalScoring
from mutual.engine.training.initial_scores import InitialScoring
from mutual.engine.training.peer_card import peer_card
from mutual.engine.training.peer_collector import PeerCollector
from mutual.engine.training.scorer import Scorer, build_churn_meter
from mutual.engine.training.setup import Training
from mutual.engine.training.trainer import Trainer
from mutual.recipe import Recipe


def build_trainer(
    recipe: Recipe, environment: Environment, folder: RunFolder, training: Training, *, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Builds the trainer of a run at its first update; nothing is read from or written to `folder`."""
    comm, data, group = environment.comm, training.data, training.group
    models = {name: peer.model for name, peer in group.peers.items()}
    collector = PeerCollector(comm, group.placement)
    cards = {name: peer_card(recipe, name, data, group.inputs[name]) for name in recipe.trainable if name in group.peers}
    best_weights = BestWeights(recipe, folder, group, cards, collector)
    early_stopping = EarlyStopping(recipe, comm)
    churn = build_churn_meter(recipe, training, comm)
    checkpointer = Checkpointer(
        recipe,
        group,
        training.optimizers,
        training.meter,
        best_weights,
        early_stopping,
        churn,
        comm=comm,
        collector=collector,
        window_size=comm.size * recipe.data.batch_size * recipe.train.accumulate,
        fingerprint=data.fingerprint,
    )
    weight_exchange = WeightExchange(recipe, group, comm)
    weight_exchange.attach()
    stragglers = StragglerMonitor(group, comm, synchronized_forwards=recipe.train.sync_batchnorm)  # starts a thread
    stragglers.attach()
    checkpoints = folder.checkpoints(keep=recipe.checkpoint.keep)
    saver = CheckpointSaver(recipe, checkpointer, checkpoints, comm, stragglers, updates_per_epoch=training.updates_per_epoch)
    scorer = Scorer(recipe, training, comm, stragglers, churn)
    skipped_images = SkippedImages(recipe, data, comm, shard=group.shard)
    tracker = Tracker(recipe, environment.accelerator, folder.path, updates_per_epoch=training.updates_per_epoch)
    return Trainer(
        recipe,
        environment,
        folder,
        training,
        best_weights=best_weights,
        callbacks=Callbacks(callbacks, recipe, folder.path, rank=comm.rank, models=models),
        checkpointer=checkpointer,
        checkpoints=checkpoints,
        collector=collector,
        final_scoring=FinalScoring(
            recipe,
            folder,
            training,
            comm,
            scorer=scorer,
            best_weights=best_weights,
            checkpointer=checkpointer,
            skipped_images=skipped_images,
            tracker=tracker,
        ),
        early_stopping=early_stopping,
        initial_scoring=InitialScoring(recipe, folder, training, scorer, checkpointer, collector),
        saver=saver,
        scorer=scorer,
        skipped_images=skipped_images,
        stragglers=stragglers,
        tracker=tracker,
        traffic=TrafficMeter(group.exchange, comm),
        weight_exchange=weight_exchange,
    )

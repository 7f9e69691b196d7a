"""What the server of forks.py has done before it forks: all that a training would do anew in each process, whatever its recipe."""

import atexit
import gc
import threading
from importlib import import_module

from PIL import Image
from support import tiny_document

from mutual.recipe import parse_recipe

for name in (
    # what a training imports when it needs it
    "accelerate",
    "multiprocessing.popen_fork",
    "multiprocessing.queues",
    "mutual.data.transforms.v2",
    "mutual.engine.evaluation.metrics",
    "mutual.engine.exporting",
    "mutual.engine.fitting",
    "mutual.engine.inputs",
    "pytest",
    "tensorboard.plugins.hparams.metadata",
    "timm.optim",
    "torch.utils.tensorboard",
    "torchmetrics.classification",
):
    import_module(name)
Image.init()  # finds Pillow's plugins
parse_recipe(tiny_document())  # pydantic builds its validators when they are first used
assert threading.active_count() == 1, "a fork has the locks of other threads as they were, and none of the threads"

gc.collect()
gc.freeze()  # so that garbage collections in a fork neither search nor copy what was there before it
atexit.register(gc.unfreeze)  # libraries complain at the end of what nobody collects

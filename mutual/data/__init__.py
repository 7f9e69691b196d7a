"""Data: the images of a recipe, in counted random order, as batches for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.data.batch import Batch, DataInfo, Window, mixed
    from mutual.data.cores import available_cores, local_processes
    from mutual.data.decoding import ImageError, load_image, pixels
    from mutual.data.fingerprint import data_changes
    from mutual.data.listing import named_images
    from mutual.data.module import DataModule, build_data
    from mutual.data.plan import shard_bounds
    from mutual.data.presence import check_present
    from mutual.data.regions import ShapeError
    from mutual.data.transfer import DeviceTransfer
    from mutual.data.transforms import Preprocess, build_preprocess, resolved_preprocess

__all__ = [
    "Batch",
    "DataInfo",
    "DataModule",
    "DeviceTransfer",
    "ImageError",
    "Preprocess",
    "ShapeError",
    "Window",
    "available_cores",
    "build_data",
    "build_preprocess",
    "check_present",
    "data_changes",
    "load_image",
    "local_processes",
    "mixed",
    "named_images",
    "pixels",
    "resolved_preprocess",
    "shard_bounds",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.data.batch": ("Batch", "DataInfo", "Window", "mixed"),
        "mutual.data.cores": ("available_cores", "local_processes"),
        "mutual.data.decoding": ("ImageError", "load_image", "pixels"),
        "mutual.data.fingerprint": ("data_changes",),
        "mutual.data.listing": ("named_images",),
        "mutual.data.module": ("DataModule", "build_data"),
        "mutual.data.plan": ("shard_bounds",),
        "mutual.data.presence": ("check_present",),
        "mutual.data.regions": ("ShapeError",),
        "mutual.data.transfer": ("DeviceTransfer",),
        "mutual.data.transforms": ("Preprocess", "build_preprocess", "resolved_preprocess"),
    },
)

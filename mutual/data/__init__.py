"""Data: the images of a recipe, in counted random order, as batches for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.data.build import build_data
    from mutual.data.datasets.fingerprint import data_changes
    from mutual.data.datasets.info import DataInfo
    from mutual.data.datasets.presence import check_present
    from mutual.data.files.decoding import ImageError, load_image, pixels
    from mutual.data.files.listing import named_images
    from mutual.data.loading.batch import Batch, Window, mixed
    from mutual.data.loading.cgroups import cgroup_folders
    from mutual.data.loading.cores import available_cores, cpu_quota, local_processes
    from mutual.data.loading.plan import EpochPlan, shard_bounds
    from mutual.data.loading.prepared import PreparedImages
    from mutual.data.loading.transfer import DeviceTransfer
    from mutual.data.module import DataModule
    from mutual.data.seeding import seeded_generators
    from mutual.data.survey import Survey, survey_images
    from mutual.data.transforms.pipelines import Preprocess, build_preprocess, resolved_preprocess
    from mutual.data.transforms.regions import ShapeError

__all__ = [
    "Batch",
    "DataInfo",
    "DataModule",
    "DeviceTransfer",
    "EpochPlan",
    "ImageError",
    "PreparedImages",
    "Preprocess",
    "ShapeError",
    "Survey",
    "Window",
    "available_cores",
    "build_data",
    "build_preprocess",
    "cgroup_folders",
    "check_present",
    "cpu_quota",
    "data_changes",
    "load_image",
    "local_processes",
    "mixed",
    "named_images",
    "pixels",
    "resolved_preprocess",
    "seeded_generators",
    "shard_bounds",
    "survey_images",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.data.datasets.info": ("DataInfo",),
        "mutual.data.loading.batch": ("Batch", "Window", "mixed"),
        "mutual.data.loading.cgroups": ("cgroup_folders",),
        "mutual.data.loading.cores": ("available_cores", "cpu_quota", "local_processes"),
        "mutual.data.files.decoding": ("ImageError", "load_image", "pixels"),
        "mutual.data.datasets.fingerprint": ("data_changes",),
        "mutual.data.files.listing": ("named_images",),
        "mutual.data.build": ("build_data",),
        "mutual.data.survey": ("Survey", "survey_images"),
        "mutual.data.module": ("DataModule",),
        "mutual.data.seeding": ("seeded_generators",),
        "mutual.data.loading.prepared": ("PreparedImages",),
        "mutual.data.loading.plan": ("EpochPlan", "shard_bounds"),
        "mutual.data.datasets.presence": ("check_present",),
        "mutual.data.transforms.regions": ("ShapeError",),
        "mutual.data.loading.transfer": ("DeviceTransfer",),
        "mutual.data.transforms.pipelines": ("Preprocess", "build_preprocess", "resolved_preprocess"),
    },
)

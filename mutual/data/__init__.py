"""Data: the images of a recipe, in counted random order, as batches for the device."""

from mutual.data.batch import BadImage, Batch, DataInfo, Mix, Window, mix, normalize, to_inputs
from mutual.data.decoding import ImageError, load_image
from mutual.data.fingerprint import data_changes
from mutual.data.listing import IMAGE_SUFFIXES, image_files
from mutual.data.module import DataModule, build_data, build_preprocess
from mutual.data.plan import shard_bounds
from mutual.data.transforms import ShapeError

__all__ = [
    "IMAGE_SUFFIXES",
    "BadImage",
    "Batch",
    "DataInfo",
    "DataModule",
    "ImageError",
    "Mix",
    "ShapeError",
    "Window",
    "build_data",
    "build_preprocess",
    "data_changes",
    "image_files",
    "load_image",
    "mix",
    "normalize",
    "shard_bounds",
    "to_inputs",
]

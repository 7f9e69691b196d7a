"""Data: the images of a recipe, in counted random order, as batches for the device."""

from mutual.data.batch import Batch, DataInfo, Mix, Window, mix, normalize, to_inputs
from mutual.data.fingerprint import data_changes
from mutual.data.module import DataModule, build_data, build_preprocess
from mutual.data.plan import even_part
from mutual.data.splits import IMAGE_SUFFIXES, load_image

__all__ = [
    "IMAGE_SUFFIXES",
    "Batch",
    "DataInfo",
    "DataModule",
    "Mix",
    "Window",
    "build_data",
    "build_preprocess",
    "data_changes",
    "even_part",
    "load_image",
    "mix",
    "normalize",
    "to_inputs",
]

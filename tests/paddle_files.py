"""Files as paddle.save writes them, and weights by a formula, of which the reference's outputs are in tests/golden."""

import pickle
import zlib
from pathlib import Path

import numpy as np
from torch import nn

GOLDEN = Path(__file__).parent / "golden"
OUTPUTS = {  # NAME of tests/golden/paddleclas_NAME.npz: arguments of the model (of 10 classes), size of the images
    "ResNet18": ({}, 64),
    "ResNet18_vd": ({}, 67),
    "ResNet34_vd": ({"max_pool": False, "stride_list": [1, 2, 2, 2, 1]}, 33),
    "ResNet50_vd": ({"stride_list": [2, 2, 1, 2, 2]}, 49),
    "MobileNetV3_small_x1_0": ({}, 64),
    "MobileNetV3_large_x0_35": ({"dropout_prob": 0.5}, 64),
    "PPLCNet_x0_5": ({}, 64),
}


def our_name(name):
    return name.replace("PPLCNet", "pplcnet") if name.startswith("PPLCNet") else f"paddleclas/{name}"


def paddle_shapes(model):
    """Names and shapes of a model's tensors as Paddle has them; written down here once more, as what is tested must not test itself."""
    linear = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    renamed = {"running_mean": "_mean", "running_var": "_variance"}
    shapes = {}
    for name, tensor in model.state_dict().items():
        path, _, last = name.rpartition(".")
        if last != "num_batches_tracked":
            shape = tuple(tensor.shape)
            shapes[f"{path}.{renamed.get(last, last)}"] = shape[::-1] if name in linear else shape
    return shapes


def formula_state(shapes):
    """Weights that depend on names and shapes alone."""
    return {name: _values(name, shape) for name, shape in shapes.items()}


def _values(name, shape):
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.rpartition(".")[2]
    if last == "_variance":
        values = np.exp(0.2 * draw)
    elif last in ("_mean", "bias"):
        values = 0.1 * draw
    elif len(shape) == 1:
        values = 1 + 0.1 * draw
    else:
        values = draw * np.sqrt(2 / (np.prod(shape[1:]) if len(shape) == 4 else shape[0]))
    return values.astype(np.float32)


def formula_images(size):
    return np.random.RandomState(7).standard_normal((2, 3, size, size)).astype(np.float32)


def write_pdparams(path, state, *, protocol=4):
    """Writes a file as paddle.save does, which has the parameters' own names beside the structured ones."""
    names = {name: f"parameter_{index}.w_0" for index, name in enumerate(state)}
    path.write_bytes(pickle.dumps({**state, "StructuredToParameterName@@": names}, protocol=protocol))
    return path

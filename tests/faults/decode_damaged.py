"""Decodes damaged images by number: `python decode_damaged.py FIRST LAST PLACE`; prints what came of them as JSON.

PLACE is a file that holds, at any moment, the number of the image that is being decoded.
"""

import collections
import json
import os
import resource
import sys
import time

import torch
from damage import damaged_image, healthy_images

from mutual.data import ImageError
from mutual.data.files.decoding import decode


def main(first, last, place):
    torch.set_num_threads(1)
    sources = healthy_images()
    outcomes = collections.defaultdict(collections.Counter)
    slowest = 0.0
    with open(place, "wb", buffering=0) as file:  # noqa: PTH123
        for number in range(first, last):
            name, content = damaged_image(sources, number)
            os.pwrite(file.fileno(), f"{number:12}".encode(), 0)
            begun = time.process_time()
            outcomes[name.rpartition(".")[2]][outcome(content, 1 + 2 * (number % 7 > 0))] += 1
            slowest = max(slowest, time.process_time() - begun)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps({"outcomes": outcomes, "slowest": slowest, "megabytes": megabytes}))


def outcome(content, channels):
    try:
        image = decode(content, channels, path="damaged/file")
    except ImageError as error:
        text = str(error)
        assert text.startswith("damaged/file is no image that can be read: "), text
        assert text.isprintable(), text
        return "refused"
    assert image.dtype == torch.uint8
    assert image.dim() == 3
    assert image.shape[0] == channels
    assert image.numel()
    return "decoded"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

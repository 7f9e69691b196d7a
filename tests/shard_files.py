"""WebDataset shards that tests write."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def write_shard(path, members, *, form=tarfile.PAX_FORMAT):
    """Writes an archive of (name, content); a label is written as WebDataset does: numbers of .cls as text, of .json as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def image_bytes(number, *, form="PNG", size=(20, 14)):
    """An image file that is a function of its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


def samples(labels, *, label="cls", first=0):
    """The members of samples with these labels, an image and a label each."""
    return [
        member
        for number, value in enumerate(labels, start=first)
        for member in ((f"{number:04}.png", image_bytes(number)), (f"{number:04}.{label}", value))
    ]


def folder_and_shards(root, *, num_classes=3, per_class=(5, 2), per_shard=4):
    """The same images, in the same order, as a folder of classes and as shards: `train-{0..N}.tar` and `val-{0..M}.tar`.

    Returns:
        By split the pattern of its shards, relative to `root`.
    """
    patterns = {}
    for side, number in zip(("train", "val"), per_class, strict=True):
        members = []
        for label in range(num_classes):
            (root / side / f"class{label}").mkdir(parents=True)
            for index in range(number):
                seed = 1000 * (side == "val") + 100 * label + index
                name, form = (f"{index}.jpg", "JPEG") if index % 2 else (f"{index}.png", "PNG")
                content = image_bytes(seed, form=form, size=(40 + seed % 7, 30 + label))
                (root / side / f"class{label}" / name).write_bytes(content)
                members.append([(f"class{label}/{name}", content), (f"class{label}/{index}.cls", label)])
        shards = [members[start : start + per_shard] for start in range(0, len(members), per_shard)]
        for position, of_shard in enumerate(shards):
            write_shard(root / "shards" / f"{side}-{position}.tar", [member for sample in of_shard for member in sample])
        (root / "shards" / "classes.txt").write_text("".join(f"class{label}\n" for label in range(num_classes)))
        patterns[side] = f"shards/{side}-{{0..{len(shards) - 1}}}.tar"
    return patterns

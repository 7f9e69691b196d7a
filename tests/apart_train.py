"""`mutual.train` on ranks that share no disk: `output=X` is X_0 on rank 0 and X_1 on rank 1; with APART_IMAGES rank 1 has an image more."""

import os
import sys

from mutual.train import main

rank = os.environ["RANK"]
arguments = [f"{word}_{rank}" if word.startswith("output=") else word for word in sys.argv[1:]]
if rank == "1" and "APART_IMAGES" in os.environ:
    arguments.append("data.num_train=41")

if __name__ == "__main__":
    sys.exit(main(arguments))

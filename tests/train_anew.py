"""`mutual.train` in a process that has not imported the hub's libraries: they read their environment when they are imported."""

import sys

from mutual import train

if __name__ == "__main__":
    for name in list(sys.modules):  # the server of forks has
        if name.partition(".")[0] in ("huggingface_hub", "datasets"):
            del sys.modules[name]
    sys.exit(train.main(sys.argv[1:]))

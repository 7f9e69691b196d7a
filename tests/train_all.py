"""Run by torchrun: trains every recipe that is named, one after another."""

import sys

import mutual
from mutual.commandline import run_command


def main():
    for path in sys.argv[1:]:
        mutual.fit(mutual.load_recipe(path))


if __name__ == "__main__":
    sys.exit(run_command(main))

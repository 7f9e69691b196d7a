"""Run as `python -m disk_full N RECIPE ...`: trains until the disk is full at the N-th write; then there is space again, and it resumes."""

import sys

from attacks import fill_disk

import mutual
from mutual.engine.storage import files

number, *arguments = sys.argv[1:]
write_synced = files._write_synced
fill_disk(int(number))
try:
    mutual.fit(mutual.load_recipe(arguments[0], arguments[1:]))
except OSError as error:
    print(error)  # noqa: T201 - the caller reads which one it was
else:
    raise AssertionError("the disk was never full")
files._write_synced = write_synced
mutual.fit(mutual.load_recipe(arguments[0], arguments[1:]), resume=True)

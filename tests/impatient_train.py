"""`mutual.train` whose watch speaks after a few seconds."""

import sys

from mutual.engine.monitoring.watchdog import HangWatchdog
from mutual.train import main

HangWatchdog.PERIOD, HangWatchdog.STALL = 0.5, 3.0

if __name__ == "__main__":
    sys.exit(main())

"""Fill the stores of a recipe's frozen peers ahead of training: `python -m mutual.store RECIPE [key.path=value ...] [--check N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mutual.commandline import print_main, run_command
from mutual.recipe import load_recipe


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.store") -> int:
    """Fills or checks and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Compute what frozen peers say of all views of the training images.")
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file with `peers.NAME.store`")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="fields of the recipe to set otherwise")
    parser.add_argument("--check", metavar="N", type=int, help="fill nothing; compute N records of each store again and compare")
    options = parser.parse_intermixed_args(arguments)
    if options.check is not None and options.check < 1:
        parser.error("--check must be at least 1")

    def command() -> None:
        recipe = load_recipe(options.recipe, options.overrides)
        from mutual.engine import check_inputs

        check_inputs(recipe)
        from mutual.engine import check_stores, fill_stores  # torch takes seconds to import, a wrong recipe is reported before

        if options.check is not None:
            for peer, (num_compared, difference) in check_stores(recipe, options.check).items():
                print_main(f"{peer}: {num_compared} records are as computed now, up to {difference:.3g}")
            return
        for store in fill_stores(recipe):
            size = store.record_bytes * store.num_images * store.num_views
            print_main(
                f"{store.folder} ({store.peer}): {store.num_views} views of {store.num_images:,} images, {store.record_bytes} bytes each, "
                f"{size / 1e6:,.1f} MB; {store.num_computed:,} computed now"
            )

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())

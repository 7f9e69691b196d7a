"""The data sets of `wds/...`: tar files as WebDataset writes them, read at random."""

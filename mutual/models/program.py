"""Programs that `torch.export` wrote, as models: `program:FILE.pt2`."""


def check_batch_sizes():
    pass

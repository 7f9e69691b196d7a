"""A student and its teacher, as recipes of the tests on scores have them."""

from support import tiny_document

KD = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}]
DIGITS = {"dataset": "digits", "image_size": 8, "batch_size": 64, "subset": 640}


def document(output, teacher=None, **changes):
    """A student and its teacher."""
    frozen = {"model": "small_cnn", "frozen": True}
    if teacher is not None:
        frozen["weights"] = str(teacher)
    return tiny_document(
        **{
            "output": str(output),
            "data": DIGITS,
            "peers": {"s": {"model": "support:tiny"}, "t": frozen},
            "objectives": KD,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "checkpoint": {"every_steps": 3},
            **changes,
        }
    )

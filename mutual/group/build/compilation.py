"""compile_peer: torch.compile for a peer's modules, and how many graphs they may have in a process.

A graph is for one number of images. By default torch compiles a second size for all sizes; that graph takes the full batches over as
well, as torch looks at the last graph first, and what was chosen for their size is lost. An epoch has two or three sizes: as many graphs.

Under DDP the module inside is compiled and not the wrapper. As this happens while the wrapper's forward runs, torch divides its graph at
the wrapper's buckets (`torch._dynamo.config.optimize_ddp`): gradients are averaged while the backward of the layers before them runs, and
what the wrapper does in Python stays outside of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mutual.group.peers import Outputs, Peer
from mutual.recipe import Recipe

BACKEND: str | Callable[..., Any] = "inductor"
"""What makes kernels of a graph; tests take one that does not."""
_GRAPHS_PER_PEER = 16
"""With gradients, without them and in eval mode, each for up to three numbers of images, and some for what a user's model does."""


def compile_peer(peer: Peer, *, mode: str = "default") -> None:
    """Compiles the peer's model, and its moving average, when they are first called; taps are part of what is compiled.

    With `mode` "reduce-overhead" graphs are replayed by the GPU itself, which writes their outputs into the same memory at each replay.
    What a source said is read after other peers have run, and what a learner said after its backward, so that outputs are copied.
    """
    for module in peer.modules:
        module.compile(backend=BACKEND, mode=mode, dynamic=False)
        if mode == "reduce-overhead":
            module._compiled_call_impl = _with_copied_outputs(module._compiled_call_impl)


def _with_copied_outputs(forward: Callable[..., Outputs] | None) -> Callable[..., Outputs]:
    assert forward is not None, "the module is compiled"

    def forward_and_copy(*arguments: Any, **options: Any) -> Outputs:
        return {name: output.clone() for name, output in forward(*arguments, **options).items()}

    return forward_and_copy


@contextmanager
def room_for_graphs(recipes: Iterable[Recipe]) -> Iterator[None]:
    """Context in which all compiled peers of `recipes` can have their graphs.

    Beyond a number of graphs of one function (8, and all peers' forwards are one function) torch runs what is new without compiling it.
    Peers with equal layers share theirs.
    """
    num_compiled = sum(recipe.is_compiled(name) for recipe in recipes for name in recipe.peers)
    if num_compiled == 0:
        yield
        return
    import torch._dynamo.config as limits  # seconds, for what compiles alone

    limit = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"  # the second in torch 2.6
    num_graphs = _GRAPHS_PER_PEER * num_compiled
    with limits.patch({name: max(getattr(limits, name), num_graphs) for name in (limit, f"accumulated_{limit}")}):
        yield

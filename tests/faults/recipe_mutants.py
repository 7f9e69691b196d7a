"""Mutants of recipes: bytes, lines, values of the YAML tree, whole documents, drawn by hypothesis."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import yaml
from hypothesis import strategies as st

LAUGHS = "[" + ", ".join([f"&l0 [{', '.join('x' * 9)}]", *(f"&l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 20))]) + "]"
MERGES = "{" + ", ".join(["m0: &m0 {a: 1, b: 2}", *(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 20))]) + "}"
_SCALARS = """
~ null true no 0 -1 -3 1 2 1.5 -0.0 1e-320 1e38 1e300 1e999 -.inf .inf .nan 4e-5 0x10 010 1_000 1:30 2024-01-01 100000 1000000000000
99999999999999999999 a kd dlm cross_entropy self ema a.ema [key] x-y << = '' '3' "\\0" "\\n" "\\ud800" "\\U0001F600" "\\UFFFFFFFF"
"\\x85\\u2028" \u00e9\u202e\u2028 ../.. / . module:factory torch.hub:load % @ ` *a !!python/name:os.system --- ...
""".split()  # noqa: SIM905  a list literal would take a line for each
_LONG = ["9" * 400, "9" * 5000, "-" + "9" * 41, "0x" + "f" * 5000, "9" * 5000 + ".5", "é" * 300, "a" * 300, "a" * 5000, f"'{'b ' * 5000}'"]
_COLLECTIONS = """
[]|{}|[[]]|[1]|[1, 2]|[1, 2, 3]|[kd]|[null]|{a: 1}|{1: 2}|{null: 1}|{[key]: 1}|{'[key]': {x: 1}}|{? [a] : 1}|{loss: kd}|{loss: [kd]}
{loss: }|{name: resize}|{name: 3}|[resize, {name: flip}]|{model: x}|{model: x, frozen: true}|{a: {model: x}}|!x y|&a 3|&a [*a]|&a {<<: *a}
<<: {a: 1}|{<<: 3}|{<<: [1]}|{a: 1, a: 2}|{1: a, 0x1: b}|# x|- |? |: || |> |'a b'
""".replace("\n", "|").split("|")
_NESTED = ["[" * 200 + "]" * 200, "[" * 5000, "{a: " * 200 + "1" + "}" * 200, "[" * 30 + "]" * 30, LAUGHS, MERGES]
_WIDE = ["[" + "1, " * 20_000 + "]", "{" + ", ".join(f"k{number}: 1" for number in range(3000)) + "}"]
SNIPPETS = ("", *_SCALARS, *_LONG, *_COLLECTIONS, *_NESTED, *_WIDE)
KEYS = ("name", "seed", "output", "placement", "data", "peers", "objectives", "optimizer", "schedule", "train", "checkpoint", "exchange")
KEYS += (
    "loss",
    "weight",
    "learners",
    "sources",
    "at",
    "temperature",
    "model",
    "args",
    "frozen",
    "lr",
    "epochs",
    "patience",
    "keep_best",
    "groups",
    "tracking",
    "pictures",
    "layer_decay",
    "class_weight",
    "sampler",
    "crops_per_image",
    "decoded",
    "columns",
    "val",
    "test",
    "image_size",
    "augment",
    "x-a",
)
CHARACTERS = "\n \t:-[]{},&*!|>'\"%@`#?\\<0aé\u2028\x00\x07\x85\ufeff\U0001f600"

snippets = st.sampled_from(SNIPPETS)


@st.composite
def mutants(seed: st.DrawFn, text: str) -> bytes:
    """One to three changes of `text`, the earlier ones of the tree, the later ones of lines and of bytes."""
    if seed(st.booleans()):
        text = seed(_changed_tree(text))
    if seed(st.booleans()):
        text = seed(_changed_lines(text))
    if seed(st.integers(0, 9)) == 0:
        text = seed(st.sampled_from(DOCUMENTS))(text)
    content = text.encode("utf-8", "surrogatepass")
    return seed(_changed_bytes(content)) if seed(st.booleans()) else content


@st.composite
def overrides(seed: st.DrawFn, paths: list[str]) -> list[str]:
    """One override mostly, of a path that there is, one like it, or none; sometimes several, and rarely very many."""
    chosen = []
    for _ in range(seed(st.sampled_from([1, 1, 1, 1, 1, 2, 3]))):
        path = seed(st.sampled_from(paths))
        match seed(st.integers(0, 7)):
            case 0:
                path = ".".join(seed(st.permutations(path.split("."))))
            case 1:
                path += "." + seed(snippets)
            case 2:
                path = path.rpartition(".")[0] + "." + seed(st.sampled_from(["99999999999999999999", "-1", "0", "00", "\u0663", *KEYS]))
            case 3:
                path = seed(st.sampled_from(["", ".", "a." * 200 + "a", "a." * 30 + "a", path[:-1], path + ".x" * 31]))
        chosen.append(seed(st.sampled_from(["", "=", "=="])) if seed(st.integers(0, 20)) == 0 else f"{path}={seed(snippets)}")
    return chosen * seed(st.sampled_from([1] * 20 + [10, 2000]))


@st.composite
def _changed_bytes(seed: st.DrawFn, content: bytes) -> bytes:
    place = seed(st.integers(0, max(len(content) - 1, 0)))
    match seed(st.integers(0, 3)):
        case 0:
            return content[:place] + bytes([content[place] ^ (1 << seed(st.integers(0, 7)))] if content else []) + content[place + 1 :]
        case 1:
            return content[:place] + content[place + seed(st.integers(1, 40)) :]
        case 2:
            return content[:place] + seed(st.sampled_from(CHARACTERS)).encode("utf-8", "surrogatepass") + content[place:]
        case _:
            return content[:place] + seed(st.binary(min_size=1, max_size=4)) + content[place:]


@st.composite
def _changed_lines(seed: st.DrawFn, text: str) -> str:
    lines = text.split("\n")
    place, other = seed(st.integers(0, len(lines) - 1)), seed(st.integers(0, len(lines) - 1))
    match seed(st.integers(0, 6)):
        case 0:
            del lines[place]
        case 1:
            lines.insert(other, lines[place])
        case 2:
            lines[place], lines[other] = lines[other], lines[place]
        case 3:
            lines[place] = " " * seed(st.integers(0, 6)) + lines[place].lstrip()
        case 4:
            head, colon, _ = lines[place].partition(": ")
            lines[place] = head + colon + seed(snippets)
        case 5:
            lines[place] += seed(snippets)
        case _:
            lines[place] = lines[place].replace(
                seed(st.sampled_from([":", ",", "{", "}", "[", "]", "-", " "])), seed(st.sampled_from(CHARACTERS))
            )
    return "\n".join(lines)


@st.composite
def _changed_tree(seed: st.DrawFn, text: str) -> str:
    document = copy.deepcopy(_document(text))
    written: list[str] = []  # snippets stand for themselves, as YAML has no value for most of them
    for _ in range(seed(st.integers(1, 3))):
        holder, key = seed(st.sampled_from(_places(document)))
        match seed(st.integers(0, 7)):
            case 0:
                del holder[key]
            case 1:
                holder[key] = seed(st.sampled_from([[holder[key]], {"a": holder[key]}, [[holder[key]] * 3], str(holder[key])]))
            case 2 if isinstance(holder, dict):
                holder[seed(st.sampled_from([*KEYS, f"{key}s", str(key)[:-1], key]))] = holder.pop(key)
            case 3:  # the same object twice: an alias, or one inside itself
                other, place = seed(st.sampled_from(_places(document)))
                other[place] = holder
            case 4:
                other, place = seed(st.sampled_from(_places(document)))
                other[place] = copy.deepcopy(holder[key])
            case 5 if isinstance(holder, list):
                holder.extend([copy.deepcopy(holder[key])] * seed(st.sampled_from([1, 8, 200])))
            case _:
                written.append(seed(snippets))
                holder[key] = f"WRITTEN{len(written)}."
        if not _places(document):
            break
    text = yaml.safe_dump(
        document, sort_keys=False, allow_unicode=seed(st.booleans()), default_flow_style=seed(st.sampled_from([None, True, False]))
    )
    for number, snippet in enumerate(written, start=1):
        text = text.replace(f"WRITTEN{number}.", snippet)
    return text


DOCUMENTS: list[Callable[[str], str]] = [
    lambda _: "",
    lambda text: f"{text}\n---\n{text}",
    lambda text: f"{text}\n{text}",
    lambda text: "- " + text.replace("\n", "\n  "),
    lambda text: "x: &x\n  " + text.replace("\n", "\n  ") + "\ny: *x\n",
    lambda text: f"x-l: {LAUGHS}\n{text}",
    lambda text: f"x-m: {MERGES}\n{text}",
    lambda text: f"{text}\nx-merged:\n  <<: {MERGES}\n",
    lambda text: "# " + "x" * 10_000_000 + "\n" + text,
    lambda text: text + "\n" * 120_000,
    lambda text: text + "\n" + "".join(f"k{number}: {{a: 1}}\n" for number in range(4_000)),
    lambda text: text + "\n" + "".join(f"k{number}: 1\n" for number in range(4_000)),
    lambda text: text + "\n" + "".join(f"x-{number}: [a, b]\n" for number in range(1_100)),
    lambda text: "x-deep:\n" + "".join(" " * depth + "a:\n" for depth in range(1, 400)) + text,
    lambda text: "%YAML 1.1\n---\n" + text,
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", "\r"),
    lambda text: text.replace(": ", ":\t"),
    lambda text: text.encode("utf-16").decode("latin-1"),
]


@cache
def _document(text: str) -> Any:
    return yaml.safe_load(text)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every container of `document` that is met on a walk of bounded length, with each of its keys or indices."""
    found: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not isinstance(value, dict | list):
            continue
        seen.add(id(value))
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        found += [(value, key) for key in keys]
        waiting += [value[key] for key in keys]
    return found

"""Small files and functions, typed and described, as numbers. Read from the source, so that nothing is imported.

Formats, names and types themselves are what `bash run.sh lint` looks at.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 50
MEDIAN_LINES_OF_A_FUNCTION = 6
SHARE_WITH_DOCSTRING = 0.95

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def definitions(node: ast.AST, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Definition]]:
    """Dotted name and node of every class and function; what stands inside a function has <locals> in its name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield ".".join((*path, child.name)), child
            within = ("<locals>",) if isinstance(child, Function) else ()
            yield from definitions(child, (*path, child.name, *within))
        else:
            yield from definitions(child, path)


def is_public(name: str) -> bool:
    """No part of it is private or local; the names that Python gives a meaning, as __call__, are public."""
    return not any(
        part.startswith("<") or (part.startswith("_") and not part.endswith("__")) for part in name.split(".")
    )


def lines_of(function: Function) -> int:
    return function.end_lineno - function.lineno + 1


def is_typed(function: Function, method: bool) -> bool:
    """Every argument but self, and the result."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if method and not any(getattr(mark, "id", "") == "staticmethod" for mark in function.decorator_list):
        named = named[1:]
    others = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    given = [argument.annotation for argument in (*named, *arguments.kwonlyargs, *others)]
    return all(given) and function.returns is not None


def habits(sources: dict[str, str]) -> dict:
    """The numbers of some files, by path: what is too long or not typed by name, and the rest as figures."""
    found = {"long files": [], "long functions": [], "untyped": [], "undescribed": []}
    lengths, described = [], 0
    for path, source in sources.items():
        tree = ast.parse(source)
        if len(source.splitlines()) > MOST_LINES_OF_A_FILE:
            found["long files"].append(path)
        nodes = dict(definitions(tree))
        for name, node in nodes.items():
            where, parent = f"{path}: {name}", nodes.get(name.rpartition(".")[0])
            if isinstance(node, Function):
                lengths.append(lines_of(node))
                if lines_of(node) > MOST_LINES_OF_A_FUNCTION:
                    found["long functions"].append(where)
                if is_public(name) and not is_typed(node, isinstance(parent, ast.ClassDef)):
                    found["untyped"].append(where)
            if is_public(name) and not node.name.startswith("__"):
                described += 1
                if not ast.get_docstring(node):
                    found["undescribed"].append(where)
        described += 1
        if not ast.get_docstring(tree):
            found["undescribed"].append(path)
    return found | {"median": median(lengths), "share described": 1 - len(found["undescribed"]) / described}


@pytest.fixture(scope="module")
def ours() -> dict:
    paths = [path for package in ("css", "tasks", "plop_baseline") for path in (ROOT / package).rglob("*.py")]
    assert len(paths) > 100
    return habits({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths})


def test_files_and_functions_are_short(ours):
    assert not ours["long files"]
    assert not ours["long functions"]
    assert ours["median"] <= MEDIAN_LINES_OF_A_FUNCTION


def test_public_signatures_are_typed(ours):
    assert not ours["untyped"]


def test_public_objects_are_described(ours):
    assert ours["share described"] >= SHARE_WITH_DOCSTRING, ours["undescribed"]


BAD = '''"""Described."""
class Silent:
    """Described."""
    def method(self, argument: int, *others) -> None:
        """Described."""
    def __call__(self, argument: int):
        def local(argument):
            return argument
        return local(argument)
    @staticmethod
    def still(argument): ...
def open(*, argument) -> int: ...
def fine(*, argument: int) -> int:
    """Described."""
def _private(argument): ...
class _Private:
    def method(self, argument): ...
'''


def test_the_numbers_can_be_bad():
    long = "def long() -> int:\n" + "    long()\n" * 49 + "    return 1\n"
    just = '"""Described."""\n' + long.replace("    long()\n", "", 1)
    found = habits({"bad.py": BAD, "long.py": long + "\n" * 250, "just.py": just + "\n" * 249})
    assert found["long files"] == ["long.py"]
    assert found["long functions"] == ["long.py: long"]
    assert found["untyped"] == [
        f"bad.py: {name}" for name in ("Silent.method", "Silent.__call__", "Silent.still", "open")
    ]
    assert found["undescribed"] == ["bad.py: Silent.still", "bad.py: open", "long.py: long", "long.py", "just.py: long"]
    assert found["share described"] == pytest.approx(1 - 5 / 10)
    assert found["median"] == 2

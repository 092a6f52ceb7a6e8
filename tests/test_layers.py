"""Imports run one way: no circle of modules, no arrow from a lower package to a higher one.

Read from the source, so that imports for type checking, inside functions and through importlib count, too. The one
exception are strings "module:Class": plug-ins, which the tables below name.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the lowest to the highest; a package imports itself and those before it. Names in one line know nothing of each
# other.
LAYERS = [
    {"tasks"},
    {"tasks.folder"},
    {"tasks.formats", "tasks.datasets"},
    {"css"},  # __version__, and names of css.api
    {"css.summaries"},
    {"css.metrics", "css.losses", "css.system"},
    {"css.config"},
    {"css.model"},
    {"css.nullspace", "css.dream", "css.fusion"},
    {"css.kinds"},
    {"css.training"},
    {"css.method"},
    {"css.s2mf"},
    {"css.report"},
    {"css.page"},
    {"css.run"},
    {"css.recipe", "css.analysis", "css.predict", "css.extend"},
    {"css.table", "css.export"},
    {"css.api"},
    {"css.cli"},
    {"css.__main__"},
    {"plop_baseline"},  # methods: above all that they may use, and only plug-ins below know their names
]
# Tables whose strings name modules above them, which are imported when a user asks for one.
PLUG_INS = {"css", "css.config.methods", "tasks.datasets.registry"}


def modules(root: Path) -> dict[str, ast.Module]:
    """The syntax tree of every module of the project, by dotted name (a package's own is that of its __init__)."""
    found = {}
    for package in ("tasks", "css", "plop_baseline"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The modules of the project that a module names: in import statements anywhere, and in strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else str(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and name not in PLUG_INS:
            module = node.value.partition(":")[0]
            if "." in module and module in known:
                yield module


def graph(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Which module imports which. A package's __init__ that re-exports its own modules is no arrow of theirs."""
    return {name: set(imports(name, tree, set(trees))) - {name} for name, tree in trees.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = [stack.pop()]
            while component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def layer(module: str) -> int:
    """The place of a module's package in LAYERS: that of the longest name that fits."""
    fitting = [
        (len(name), place)
        for place, names in enumerate(LAYERS)
        for name in names
        if module == name or (module.startswith(f"{name}.") and name != "css")
    ]
    assert fitting, f"{module} is in no layer"
    return max(fitting)[1]


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Arrows to a higher layer, or to another package of the same one."""

    def package(module: str) -> str:
        return max((name for name in LAYERS[layer(module)] if module.startswith(name)), key=len)

    return [
        f"{name} -> {other}"
        for name, others in sorted(edges.items())
        for other in sorted(others)
        if layer(other) > layer(name) or (layer(other) == layer(name) and package(other) != package(name))
    ]


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    return graph(modules(ROOT))


def with_line(edges: dict[str, set[str]], module: str, line: str) -> dict[str, set[str]]:
    """The same with one more line in a module."""
    return edges | {module: edges[module] | set(imports(module, ast.parse(line), set(edges)))}


def test_no_circle_of_modules(edges):
    assert circles(edges) == []


def test_arrows_go_down_only(edges):
    assert upward(edges) == []


def test_every_import_is_seen(edges):
    """A few that are easily missed."""
    assert "css.metrics" in edges["css.report.segmentation"], "for type checking, and inside a function"
    assert "css.cli.run" in edges["css.cli.main"], "a string, through importlib"
    assert len(edges) > 80 and sum(map(len, edges.values())) > 300
    assert not {"plop_baseline.plop"} & edges["css.config.methods"], "a plug-in"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("css.config.settings", "from css.run.flow import run"),
        ("css.model.segmenter", "if TYPE_CHECKING:\n    from css.training.trainer import Trainer"),
        ("css.system.files", "def late():\n    import css.report.text"),
        ("css.losses", "importlib.import_module('css.table.write')"),
        ("tasks.stream", "from css.metrics import ConfusionMatrix"),
        ("css.s2mf.slow", "from plop_baseline.ewc import Ewc"),
    ],
)
def test_a_wrong_arrow_is_found(module, line, edges):
    assert upward(with_line(edges, module, line))


def test_a_circle_within_a_package_is_found(edges):
    line = "from css.dream.draw import draw_dreams"
    assert ["css.dream.draw", "css.dream.layouts"] in circles(with_line(edges, "css.dream.layouts", line))

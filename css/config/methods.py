"""The methods that come with the toolkit, by name. One line here is all that a new one needs beside its file.

The strings are plug-ins: what they name lies above this module, and is imported when it is asked for.
"""

import ast
import importlib.util
from pathlib import Path

from tasks.errors import InputError, nearest

METHODS = {
    "finetune": "plop_baseline.finetune:Finetune",
    "joint": "plop_baseline.joint:Joint",
    "plop": "plop_baseline.plop:Plop",
    "mib": "plop_baseline.mib:Mib",
    "ilt": "plop_baseline.ilt:Ilt",
    "lwf": "plop_baseline.lwf:Lwf",
    "lwf-mc": "plop_baseline.lwf_mc:LwfMc",
    "ewc": "plop_baseline.ewc:Ewc",
    "frozen": "plop_baseline.frozen:Frozen",
    "hypercolumn": "plop_baseline.hypercolumn:HypercolumnMethod",
    "mas": "plop_baseline.mas:Mas",
    "gem": "plop_baseline.gem:Gem",
    "a-gem": "plop_baseline.a_gem:AGem",
    "gd-wild": "plop_baseline.gd_wild:GdWild",
    "nsp": "plop_baseline.nsp:Nsp",
    "connector": "plop_baseline.connector:Connector",
    "star": "plop_baseline.star:Star",
    "dkd": "plop_baseline.dkd:Dkd",
    "analytic": "plop_baseline.analytic:Analytic",
    "lgkd": "plop_baseline.lgkd:Lgkd",
    "barm": "plop_baseline.barm:Barm",
    "ssul": "plop_baseline.ssul:Ssul",
}

# BASE+NAME goes around a base method
WRAPPERS = {
    "s2mf": "css.s2mf.algorithm:Split2MetaFusion",
    "align": "css.s2mf.aligned:Aligned",
    "replay": "plop_baseline.replay:Replay",
    "ewf": "plop_baseline.ewf:Ewf",
    "lgkd": "plop_baseline.lgkd:LabelGuided",
}


def divided(name: str) -> tuple[str, str | None]:
    """Base and last wrapper of a method's name: "plop+replay+s2mf" is s2mf around plop+replay."""
    base, plus, wrapper = name.rpartition("+")
    return (base, wrapper) if plus else (name, None)


def method_path(name: str) -> str:
    """Where a base method is: "module:Class". Raises InputError for an unknown name."""
    if not name:
        raise InputError("--method names no base method: give one before the +, for example plop+s2mf.")
    if name not in METHODS and ":" not in name:
        raise InputError(
            f"--method {name} is unknown; {nearest(name, METHODS)}, or name your own as package.module:Class."
        )
    return METHODS.get(name, name)


def wrapper_path(wrapper: str, name: str) -> str:
    """Where a wrapper is: "module:Class"; `name` is the whole method's. Raises InputError for an unknown one."""
    if wrapper not in WRAPPERS:
        raise InputError(f"--method {name}: {wrapper!r} wraps no method; choose BASE+{' or BASE+'.join(WRAPPERS)}.")
    return WRAPPERS[wrapper]


def require_known(name: str) -> None:
    """Raises InputError for a name of which no part is known, before anything of it is imported."""
    base, wrapper = divided(name)
    while wrapper is not None:
        wrapper_path(wrapper, name)
        base, wrapper = divided(base)
    method_path(base)


def summary_of(path: str) -> str:
    """The `summary` of a class "module:Class", read from its file: importing all of them takes five seconds.

    Raises ImportError if there is no such package.
    """
    module, _, name = path.partition(":")
    package, _, leaf = module.rpartition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is no package")
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / f"{leaf}.py").read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    values = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return str(ast.literal_eval(values["summary"]))

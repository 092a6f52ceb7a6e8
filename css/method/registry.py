"""From the name of a method to the method: a base, or wrappers around one, each holding what it goes around."""

import importlib
from typing import Any

from css.config.methods import divided, method_path, wrapper_path
from css.method.contract import Method
from css.method.wrapper import Wrapper
from tasks.errors import InputError


def make_method(name: str, options: Any = None, flag: str = "--options") -> Method:
    """The method of a name, with its options (default: its preset's).

    "BASE+s2mf" is Split2MetaFusion around a base, "BASE+align" trains its classifiers once more after every task,
    "BASE+replay" adds a memory of old images. A base is a name of METHODS or "package.module:Class" for the user's own.
    Raises InputError for an unknown name, or a base that the wrapper cannot go around.

    Args:
        name: As given to --method.
        options: An instance of the method's Options; those of a base are their field `base`.
        flag: What the options stand below on the command line, for messages.
    """
    options = default_options(name) if options is None else options
    base, wrapper = divided(name)
    if wrapper is None:
        method = method_class(base)(options)
    else:
        method = wrapper_class(wrapper, name)(options, make_method(base, options.base, f"{flag}.base"))
    method.flag = flag
    return method


def default_options(name: str) -> Any:
    """The preset of a method, those of its base included. Raises InputError for an unknown name."""
    base, wrapper = divided(name)
    if wrapper is None:
        return method_class(base).Options()
    around = wrapper_class(wrapper, name)
    inner = None if "+" in base else method_class(base).options_within.get(wrapper)
    return around.Options(base=default_options(base) if inner is None else inner)


def train_settings(name: str) -> dict[str, Any]:
    """What the base method of a name sets of --train by default. Raises InputError for an unknown name."""
    base, wrapper = divided(name)
    return dict(method_class(base).train_settings) if wrapper is None else train_settings(base)


def options_type(name: str) -> Any:
    """The type of a method's options, its base's filled in: what the command line is made from."""
    base, wrapper = divided(name)
    if wrapper is None:
        return method_class(base).Options
    generic: Any = wrapper_class(wrapper, name).Options
    return generic[options_type(base)]


def method_class(name: str) -> type[Method]:
    """The class behind a name of METHODS, or behind "package.module:Class". Raises InputError if there is none."""
    found = _import(method_path(name), name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"--method {name} is not a subclass of css.method.Method.")
    return found


def wrapper_class(wrapper: str, name: str) -> type[Wrapper]:
    """The class behind a name of WRAPPERS; `name` is the whole method's, for messages."""
    return _import(wrapper_path(wrapper, name), name)


def _import(path: str, name: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:  # TypeError: of ".x:Y"
        raise InputError(f"--method {name} cannot be imported ({error}); check the module path.") from None

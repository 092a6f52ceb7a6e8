"""A recipe: one YAML file that names all runs of a table."""

from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from css.config.files import read_yaml
from css.report.choice import scores_of
from tasks import InputError

_STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


@dataclass(config=_STRICT)
class Row:
    """A method with its options.

    An ablation is a row of its own name; an option that depends on the protocol is several rows of one name with
    protocols of their own.
    """

    method: str
    name: str = ""  # default: the method
    protocols: list[str] = field(default_factory=list)  # default: all of the recipe
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # beside the recipe's, by section: model, train

    @property
    def label(self) -> str:
        """What the table calls it."""
        return self.name or self.method


@dataclass(config=_STRICT)
class Published:
    """Numbers of a paper in %, by row and protocol: old, new and all, or ACC and BWT of image labels."""

    rows: dict[str, dict[str, tuple[float | None, ...]]]  # null: not given
    note: str = ""


@dataclass(config=_STRICT)
class Recipe:
    """The keys of a recipe file. A row that is no more than a method may be written as its name."""

    dataset: str
    protocols: list[str]
    methods: list[Annotated[Row, BeforeValidator(lambda row: {"method": row} if isinstance(row, str) else row)]]
    seeds: list[int]
    title: str = ""
    runs: str = ""  # sub-folder of --runs with the run folders, which recipes may share; default: the recipe's name
    settings: dict[str, Any] = field(default_factory=dict)  # of every run, as in config.yaml
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # of every row of a method
    published: dict[str, Published] = field(default_factory=dict)  # by source


def read_recipe(path: Path) -> Recipe:
    """A recipe from its YAML file.

    Raises InputError for an unknown key, a value of a wrong type, and for what is named but not used.
    """
    try:
        recipe = TypeAdapter(Recipe).validate_python(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    for key in ("protocols", "methods", "seeds"):
        if not getattr(recipe, key):
            raise InputError(f"{path}: {key} is empty; name at least one.")
    if unused := recipe.options.keys() - {row.method for row in recipe.methods}:
        raise InputError(f"{path}: options are given for {min(unused)!r}, which is not among its methods.")
    names = scores_of(recipe.dataset).published
    for source, label, numbers in _published(recipe):
        if len(numbers) != len(names):
            raise InputError(f"{path}: published.{source}.rows.{label} must hold {', '.join(names)} for each protocol.")
    for row in recipe.methods:
        if unknown := set(row.protocols) - set(recipe.protocols):
            raise InputError(f"{path}: row {row.label!r} names {min(unknown)!r}, which is not among its protocols.")
        if "/" in row.name:
            raise InputError(f"{path}: row {row.name!r} has a / in its name, which becomes the name of a folder.")
    return recipe


def _published(recipe: Recipe) -> Iterator[tuple[str, str, tuple[float | None, ...]]]:
    for source, published in recipe.published.items():
        for label, of_protocol in published.rows.items():
            yield from ((source, label, numbers) for numbers in of_protocol.values())

"""Pages from templates: one file each, which needs no other and no network."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from css.system.files import write_text


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fills a template of this package and writes it; whatever is not Markup is escaped."""
    write_text(path, _environment().get_template(template).render(**content))


@cache
def _environment() -> Environment:
    """Kept, because a compiled template costs more than a page made from it."""
    loader = PackageLoader("css.page")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: "-" if value is None else f"{value:.1f}"
    environment.filters["share"] = lambda value: 0 if value is None else round(min(1.0, abs(value) / 100), 2)
    environment.globals["style"] = Markup(loader.get_source(environment, "style.css")[0])
    return environment

"""Documents and code name the same things: links, recipes, methods, the API reference, the version."""

import importlib
import re
from pathlib import Path

import pytest
import yaml
from small_voc import css

from css import __version__

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def broken_links(page: Path, text: str) -> list[str]:
    targets = [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target]
    return [target for target in targets if target and not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    assert not broken_links(page, page.read_text(encoding="utf-8"))


def outside_links(text: str) -> list[str]:
    """Links to files that are no page of the site; a strict build refuses them."""
    targets = [target.partition("#")[0] for target in LINK.findall(text)]
    return [target for target in targets if target.startswith("..") and Path(target).suffix not in (".md", ".png")]


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_link_to_pages(page):
    assert not outside_links(page.read_text(encoding="utf-8"))


def test_a_link_to_no_page_is_seen():
    text = "[page](../REPRODUCTION.md), [picture](../docs/a.png), [recipe](../../recipes/table2.yaml)"
    assert outside_links(text) == ["../../recipes/table2.yaml"]


def test_a_broken_link_is_seen():
    text = "[here](design.md), [gone](results.md#tried), [elsewhere](https://example.org/results.md)"
    assert broken_links(ROOT / "docs" / "s2mf.md", text) == ["results.md"]


def test_every_page_is_in_the_site():
    docs, listed = ROOT / "docs", (ROOT / "mkdocs.yml").read_text()
    assert not [page for page in PAGES if docs in page.parents and str(page.relative_to(docs)) not in listed]


def test_results_name_every_page():
    home = ROOT / "docs" / "results"
    linked = set(LINK.findall((home / "README.md").read_text()))
    assert {page.name for page in home.glob("*.md")} - {"README.md"} == linked


def test_every_recipe_is_described():
    described = set(LINK.findall((ROOT / "recipes" / "README.md").read_text()))
    recipes = {path.name for path in (ROOT / "recipes").glob("*.yaml")}
    assert len(recipes) > 10 and recipes == {name for name in described if name.endswith(".yaml")}


def test_every_method_has_a_row_of_what_is_verified_and_a_heading_in_the_api():
    listed = [line.split()[0] for line in css("list").out.splitlines() if line.startswith("  ")]
    names = {f"BASE+{name.partition('+')[2]}" if "+" in name else name for name in listed}
    rows = set(re.findall(r"^\| ([\w+-]+) \|", (ROOT / "REPRODUCTION.md").read_text(), re.M))
    assert len(names) > 15 and names <= rows
    api = (ROOT / "docs" / "api" / "methods.md").read_text()
    assert {name for name in names if f"## {name}\n" not in api} == {"BASE+s2mf", "BASE+align"}  # docs/s2mf.md


def exists(dotted: str) -> bool:
    """Whether this is the name of a module, or of something in one."""
    module, _, name = dotted.rpartition(".")
    try:
        return not module or hasattr(importlib.import_module(module), name) or bool(importlib.import_module(dotted))
    except ImportError:
        return False


def test_names_of_the_api_reference():
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    names = set(re.findall(r"^::: (\S+)", pages, re.M)) | set(re.findall(r"\[`([\w.]+)`\]\[\]", pages))
    assert len(names) > 40 and not [name for name in sorted(names) if not exists(name)]
    assert not exists("css.model.Nothing") and not exists("css.nothing.at_all")


def test_one_version():
    version = __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()

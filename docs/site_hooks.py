"""Pages of the site that stand at the top of the repository, and the links to and from them."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = ["CHANGELOG.md", "CONTRIBUTING.md", "REPRODUCTION.md", "recipes/README.md"]
ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from the top."""
    for page in PAGES:
        files.append(File.generated(config, page, content=_for_the_site(page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link from docs/ to a page at the top leads to its copy in the site."""
    home = posixpath.dirname(page.file.src_uri)
    for top in PAGES:
        outside = posixpath.relpath(top, posixpath.join("docs", home))
        markdown = markdown.replace(f"]({outside})", f"]({posixpath.relpath(top, home or '.')})")
    return markdown


def _for_the_site(page: str) -> str:
    """Links into docs/ lose it; those to files that are no page keep their text alone."""

    def mended(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link["target"]))
        if not (target.startswith("docs/") or target in PAGES):
            return link["text"]
        inside = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(page) or ".")
        return f"[{link['text']}]({inside})"

    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"\[(?P<text>[^\]]*)\]\((?P<target>[^):#]+)\)", mended, text)

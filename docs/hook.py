"""MkDocs hook: pages that live elsewhere in the repository, and links to what is in the repository and not in the site."""

import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "node_firmware/PORTING.md": "porting.md",
    "benchmarks/RESULTS.md": "measured.md",
    "cascades/wakeword/CARD.md": "card-wakeword.md",
    "cascades/vibration/CARD.md": "card-vibration.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=posixpath.join(posixpath.dirname(config.config_file_path), source)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """A link to a file that is not in the site becomes its text; one to a page that lives elsewhere leads to the page."""
    source = {name: path for path, name in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewritten(found: re.Match[str]) -> str:
        image, text, target, anchor = found.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        name = PAGES.get(path, path.removeprefix("docs/"))
        if path not in PAGES and (not path.startswith("docs/") or files.get_file_from_path(name) is None):
            return text
        return f"{image}[{text}]({posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return _LINK.sub(rewritten, markdown)

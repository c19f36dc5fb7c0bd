"""MkDocs hook: a link that leaves docs/ leads to a page of the site that shows that file.

The pages link to source, tests and model cards as they lie in the repository, so that the links
work there. On the site the same files are shown as code, which needs no address of a repository.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(\]\()((?:\.\./)[^)#\s]+)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".csv": "text"}


def _outside(page: str, link: str) -> str | None:
    """Path from the root of the repository, where a link of a page leads out of docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith(("docs/", "..")) else path


def _shown(path: Path) -> str:
    """The Markdown that shows a file, or lists a folder."""
    if path.is_dir():
        return "\n".join(f"- `{each.name}`" for each in sorted(path.iterdir()))
    text = path.read_text(encoding="utf-8")
    return f"`````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n`````"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file that a page links to outside docs/."""
    root = Path(config.config_file_path).parent
    linked: set[str] = set()
    for file in files.documentation_pages():
        if file.src_uri.endswith(".md"):
            found = (_outside(file.src_uri, link) for _, link in LINK.findall(file.content_string))
            linked |= {path for path in found if path and (root / path).exists()}
    for path in sorted(linked):
        content = f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n{_shown(root / path)}\n"
        page = File.generated(config, f"files/{path}.md", content=content)
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point such links at these pages."""

    def moved(link: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, link[2])
        home = f"files/{path}.md"
        if path is None or files.get_file_from_path(home) is None:
            return link[0]
        return link[1] + posixpath.relpath(home, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)

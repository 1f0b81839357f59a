"""Sphinx: `pip install '.[docs]' && sphinx-build -W docs docs/_build/html`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "pgtbl"
author = "pgtbl contributors"
project_copyright = "2026, pgtbl contributors"
try:
    release = version("pgtbl")
except PackageNotFoundError:
    release = "0.0.0"
version = release.split("+")[0]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_numpy_docstring = True
napoleon_google_docstring = True


def setup(app: Sphinx) -> None:
    """State diagrams are Mermaid's: drawn where the page is read on a forge, text here."""
    app.add_lexer("mermaid", TextLexer)


html_theme = "furo"
html_title = "pgtbl"

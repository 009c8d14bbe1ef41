"""Sphinx's settings: `make docs` builds docs/_build/html, and takes warnings for errors."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs.write_commands import write_commands  # noqa: E402
from fogconv.cluster.protocol.version import VERSION  # noqa: E402

project = "fogconv"
author = "the fogconv developers"
copyright = author
release = version = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
myst_links_external_new_tab = True
highlight_language = "text"
default_role = "code"
smartquotes = False  # they make a dash of the two hyphens of an option

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"fogconv {VERSION}"
html_static_path = ["_static"]
html_css_files = ["fogconv.css"]
html_show_copyright = False

write_commands(Path(__file__).with_name("commands.md"))

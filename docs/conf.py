"""The documentation site: `make docs` builds it into outputs/docs, with warnings as errors."""

import os
import sys
from pathlib import Path

import mfrun

# The page of the commands runs `mfrun` itself.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["COLUMNS"] = "100"

project = "mfrun"
author = "The mfrun developers"
copyright = "The mfrun developers"
version = release = mfrun.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

# The tutorial is run, from the top, when the site is built, and an error in it is an error of the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
# The lines that a run says as it goes: a reader of the page has no use for them.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"mfrun {version}"
html_show_sourcelink = False

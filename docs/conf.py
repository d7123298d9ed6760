"""How the guide is built: `make docs`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE.parent, HERE, HERE / "_extensions"):
    sys.path.insert(0, str(folder))
sys.path.append(str(HERE.parent / "tests"))  # Last: some of its folders have names of packages.
# Kernels of notebooks import the package, and what the pages share, from this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
os.environ["JUPYTER_PATH"] = str(HERE / "_jupyter")  # Kernels that only say what is wrong.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from compiling import set_known_flags  # noqa: E402

# Pages compile many small programs that they run once. Optimizing these takes half of the time, and
# moves numbers by rounding alone; a page that takes times or trains for long asks for it.
set_known_flags()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import rnn_jax  # noqa: E402

project = "rnn_jax"
author = "The rnn_jax authors"
copyright = author
version = release = rnn_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_copybutton",
    "cell_entry",
    "docstrings",
    "feature_matrix",
    "offline_mathjax",
    "pictures",
    "reference",
    "spread_pages",
]
exclude_patterns = ["_build", "_jupyter", "checks", "images", "Thumbs.db", "**/.ipynb_checkpoints"]
nitpicky = True
# Types of other libraries have no page here.
nitpick_ignore_regex = [("py:class", r"(?!rnn_jax).*")]

# Notebooks: text in, executed at each build; what raises fails the build.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "inline"  # In order, so that the text can show what its cells computed.
nb_eval_name_regex = ".*"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # Tables too, where a cell gives Markdown.

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
# Else they are called variables, and annotations are looked up for them.
napoleon_custom_sections = [("Attributes", "params_style")]
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = "rnn_jax"
# Unset, each page logs an error, because the theme's script takes the empty name for a mode.
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["guide.css", "reference.css"]
html_show_sourcelink = False
html_sidebars = {"gallery": []}  # It has no pages beside it.
html_copy_source = False
# Each page that was found would be fetched for it, which browsers refuse to pages from a disk.
html_show_search_summary = False
html_theme_options = {
    "logo": {"text": "rnn_jax"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "pygments_light_style": "default",
    "pygments_dark_style": "github-dark",
    "show_toc_level": 2,
}
mathjax_path = "mathjax/tex-svg.js"
mathjax_loading_method = "defer"
# Assistive MathML and the menu would fetch files that are not here.
mathjax3_config = {"options": {"enableMenu": False}}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# SPDX-License-Identifier: GPL-2.0
#
# sphinx-build -W -b html Documentation build/docs

project = "paraclock"
author = "The paraclock developers"
copyright = author

extensions = []
exclude_patterns = []
root_doc = "index"
highlight_language = "none"
# Every reference has to lead somewhere.
nitpicky = True

html_theme = "alabaster"
html_theme_options = {
    "description": "A clocksource for guests, fed by the hypervisor",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_show_sourcelink = False

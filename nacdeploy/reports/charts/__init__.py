"""Charts of a report as data, as SVG for its page, and as matplotlib figures for notebooks and files."""

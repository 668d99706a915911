"""An artifact folder: its records, and the facts in its graph."""

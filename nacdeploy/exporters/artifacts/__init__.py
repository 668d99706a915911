"""An artifact folder: its records, and what its graph says of itself."""

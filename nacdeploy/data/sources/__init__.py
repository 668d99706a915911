"""Where images come from: one module for each name of a data set."""

"""The sources of images: one module for each name of a data set."""

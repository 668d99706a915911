"""Labels of the channels along every axis of a captured network."""

"""The start of a command: options, settings in force, preprocessing, the session, folders of runs."""

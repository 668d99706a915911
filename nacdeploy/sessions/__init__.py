"""What a command starts from: options, settings in force, preprocessing, the session, folders of runs."""

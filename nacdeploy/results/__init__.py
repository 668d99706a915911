"""The results of a command: result.json, the checkpoint's folder, the page of a run."""

"""What a command leaves behind: result.json, the checkpoint's folder, the page of a run."""

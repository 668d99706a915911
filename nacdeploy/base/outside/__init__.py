"""The outside of this process: files of others, the origin of records, and the signal to end."""

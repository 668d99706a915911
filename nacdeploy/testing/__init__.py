"""The laws of implementations, as functions that other packages' tests can call."""

"""The laws that an implementation keeps, as functions that other packages' tests can call."""

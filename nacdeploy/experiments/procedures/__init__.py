"""The procedures of experiments, as letters of a chain with tables of the profile."""

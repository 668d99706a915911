"""The tables of a profile, by subject; the tables of letters lie beside their operators."""

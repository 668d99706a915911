"""The tables of a profile, by what they settle; those of letters lie beside their operators."""

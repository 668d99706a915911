"""Coding: what weights weigh when stored: Huffman codes, zero runs, and a container that is exact to the bit."""

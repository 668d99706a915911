"""Coding: the stored size of weights, by Huffman codes and zero runs, and a container that is exact to the bit."""

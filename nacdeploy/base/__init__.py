"""What every room uses: errors, files, records, precisions, clocks; imports nothing of the others."""

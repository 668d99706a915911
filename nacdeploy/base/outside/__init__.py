"""What comes from outside this process: files of others, whose records they are, and the wish that it ends."""

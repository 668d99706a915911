"""Who proposes the jobs of an experiment, and who runs them."""

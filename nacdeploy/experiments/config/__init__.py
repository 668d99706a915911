"""What an experiment's file says."""

"""The memory of searches, from which earlier trainings are loaded."""

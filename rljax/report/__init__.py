"""Statistics and pictures of what a run gave."""

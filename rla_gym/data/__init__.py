"""Data of others: what is in a folder or a file, and how it becomes a dataset that `rla-gym train` reads."""

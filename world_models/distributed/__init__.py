"""Several processes, several machines: one training shared by processes, and maps over a Ray cluster."""

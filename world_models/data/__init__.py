"""Episodes on disk, cached frames and features, the windows that training draws, and demonstrations."""

"""Parts that the networks of several rooms share: attention pooling, zero-initialised layers, solvers."""

"""Floor 1 of rla-gym: frozen features, residual latent actions, the flow world model, and their training.

Imports torch, timm, numpy, pyarrow, PyAV and safetensors only, so that it trains on a bare GPU machine.
"""

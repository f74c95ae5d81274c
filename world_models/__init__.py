"""Learned world models: encoders of frames, dynamics of features, heads, data, training, and the worlds that ship.

Imports torch, timm, numpy, pyarrow, PyAV and safetensors only, so that it trains on a bare GPU machine.
"""

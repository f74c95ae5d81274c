"""Frames and proprioception to the states of a world: frozen timm backbones, a projection, a proprioceptive token."""

"""Policies over a world's states: their networks, and the folders that they are saved in."""

"""Adapters of the dream to reinforcement-learning libraries that do not take Gymnasium's vector environments."""

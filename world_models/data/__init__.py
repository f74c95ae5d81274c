"""Data on disk: episodes in the LeRobotDataset v3.0 layout and what is derived from them."""

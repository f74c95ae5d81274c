"""From a folder of videos to a world folder: the training loop, the stages, the model card."""

"""Convolutional networks, their preprocessing and their checkpoints: the only room that imports torch."""

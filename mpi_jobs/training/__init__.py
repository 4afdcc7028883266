"""Convolutional networks: trained with the images dealt out to ranks."""

"""Training of convolutional networks, with the images dealt out to ranks."""

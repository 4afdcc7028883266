"""Feature maps: from the pixels of an image to the features that a ridge classifier is fitted to."""

"""What tests share besides fixtures: places, processes, and small sets of images."""

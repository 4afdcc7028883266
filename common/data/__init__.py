"""Images from their sources to blocks of uint8 pixels: sources, decoding, splits, tables."""

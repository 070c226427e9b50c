"""Does it hold for ResNet50, on images that are read from files? The arms and the lines."""

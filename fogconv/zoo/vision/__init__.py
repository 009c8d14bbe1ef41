"""torchvision's models beyond classifiers: those that give a class per pixel, and detectors."""

"""fedpoet on Flower's SuperLink."""

"""``ssrseg serve``: a trained model behind HTTP, image in, mask out."""

"""What all other parts need: checks, tensors, processes, static graphs, compiling, wheels."""

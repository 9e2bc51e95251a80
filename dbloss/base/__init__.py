"""What all parts stand on: settings, tensors, processes, static graphs, compiling, wheels."""

"""Tensors in, tensors out: linear maps, similarities, intervals and the GPU kernels. Knows no model and no file."""

"""Pure operators on tensors: batched, differentiable, without classes and without files."""

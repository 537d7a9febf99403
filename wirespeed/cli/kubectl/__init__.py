"""`kubectl wirespeed`: the node's questions, asked from outside of the node, with the caller's own rights."""

"""The `wirespeed` command."""

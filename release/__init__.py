"""A release: one version everywhere in the repository, and the files that users download."""

"""The documentation site: the pages of docs/ and some from elsewhere, and what of them is generated."""

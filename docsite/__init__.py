"""The documentation site: the hook for MkDocs, the page of commands, and the drawings."""

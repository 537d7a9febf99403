"""The CNI specification: requests, results, error codes, versions, chains, running a plugin."""

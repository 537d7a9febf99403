"""The CNI specification: requests, results, error codes, versions, plugin chains, execution of plugins."""

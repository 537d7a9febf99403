"""`wirespeed measure`: throughput, latency and loss between two interfaces, by the procedures of RFC 2544."""

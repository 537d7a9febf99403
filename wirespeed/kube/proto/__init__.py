"""The kubelet's gRPC messages; `make proto` writes the *_pb2 modules from the .proto files."""

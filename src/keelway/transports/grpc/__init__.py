"""The gRPC transport. Needs the extra ``grpc``; the app imports it only where it is asked for."""

"""The public gRPC API: one call a request, many requests on one call, and what operators ask for."""

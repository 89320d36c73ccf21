"""What prefill and decode workers share: a gRPC server around an engine, and the streams to the routers."""

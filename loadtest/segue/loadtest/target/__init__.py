"""Servers that load is put on: OpenAI over HTTP, Segue over gRPC."""

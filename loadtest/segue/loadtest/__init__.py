"""Load on any server that speaks OpenAI HTTP or Segue's gRPC, measured without coordinated omission."""

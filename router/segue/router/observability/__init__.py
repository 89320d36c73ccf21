"""What is told of requests and of the process: counted, logged, traced."""

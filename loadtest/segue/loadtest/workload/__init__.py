"""What is asked and when: lengths, arrivals, traces, prompts. Pure; the same seed gives the same requests."""

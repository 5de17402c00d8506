"""The pure part: commands and their codec, the state machine that decides, payloads, aggregates."""

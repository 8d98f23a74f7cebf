"""One run: its options and handle, how it is executed, resumed, copied and shown."""

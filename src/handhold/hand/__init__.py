"""The hand: its model, files, conventions and anatomy."""

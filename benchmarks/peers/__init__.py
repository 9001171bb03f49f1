"""Other engines at the same work, each in a process of its own."""

"""What a person would read in a text: its disguises taken off, while each character knows where it came from."""

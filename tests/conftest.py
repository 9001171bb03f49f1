"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("guard", deadline=None)  # a deadline would measure the machine
settings.load_profile("guard")

"""Settings shared by all tests."""

from hypothesis import settings

settings.register_profile("xdreg", deadline=None, max_examples=40)
settings.load_profile("xdreg")

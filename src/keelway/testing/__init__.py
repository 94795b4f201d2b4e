"""Fakes for tests of code that uses keelway: a runtime without a model, a clock moved by hand."""

from keelway.testing.fakes import FakeClock, FakeRuntime

__all__ = ["FakeClock", "FakeRuntime"]

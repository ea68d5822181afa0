"""refsweep: searches, trains, evaluates and promotes language-guided vision models."""

__version__ = "0.1.0"

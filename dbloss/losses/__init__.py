"""The losses as layers: settings, and the terms that an engine evaluates."""

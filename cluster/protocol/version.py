"""The version of fogconv, which stands in messages, caches and reports."""

VERSION = "0.2.0"

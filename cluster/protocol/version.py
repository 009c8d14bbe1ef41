"""The version of fogconv, used in messages, caches and reports."""

VERSION = "0.2.0"

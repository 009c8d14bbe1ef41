"""Options: those that commands share, with their help, and how their texts become values."""

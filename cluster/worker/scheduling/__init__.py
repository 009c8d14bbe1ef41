"""Which of a worker's runs computes, where several are under way."""

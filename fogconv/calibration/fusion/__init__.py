"""Which operators a runtime computes as one kernel, found by test cases: alone and in pairs."""

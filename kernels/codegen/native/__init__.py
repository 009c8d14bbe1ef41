"""Functions that are LLVM IR from the start: what compiles, keeps and loads them."""

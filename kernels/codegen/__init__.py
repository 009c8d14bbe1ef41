"""Code generation: LLVM IR behind @intrinsic, and its compilation."""

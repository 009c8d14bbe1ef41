"""What the aarch64 kernels cost on cores that are not at hand: emitted code, priced by LLVM's models of the cores."""

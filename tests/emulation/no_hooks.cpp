// Takes check_hooks.cpp's place where kernels are not instrumented: an executable wants a source.

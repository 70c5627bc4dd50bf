"""One file an optimizer: its hyperparameters and how it is built. `registry.methods` finds them."""

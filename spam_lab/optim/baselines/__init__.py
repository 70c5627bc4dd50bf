"""Optimizers that this project writes itself to compare SPAM with: one module each, with torch.

`spam_lab/optim/methods/` declares their hyperparameters and imports them only to build them.
"""

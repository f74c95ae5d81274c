"""The fast dynamics for student hardware: a regression by mixers over token positions, and a flow on its residual.

It is not the paper's RLA-WM (arXiv 2605.07079). There, a flow generates the whole latent action of a learned
autoencoder. Here, a regression predicts the next state, and the flow generates only what the regression leaves, as
principal components. With its one solver step the flow gives a mean, so two draws of noise hardly differ.
"""

"""RLA-WM as its paper has it (arXiv 2605.07079): a learned autoencoder of latent actions, and a flow over them.

The autoencoder learns from frames alone. The flow generates the whole latent action of an action chunk, and the
autoencoder's decoder applies it to the state.
"""

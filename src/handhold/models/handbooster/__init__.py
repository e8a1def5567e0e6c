"""HandBooster's image synthesizer: a conditional diffusion network over hand-object crops."""

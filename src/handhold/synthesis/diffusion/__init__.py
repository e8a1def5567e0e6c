"""Making photos of rendered conditions with HandBooster's denoiser (extra `diffusion`)."""

"""Pictures of hands and objects by ray casting: labels, shading, overlays and GLB files."""

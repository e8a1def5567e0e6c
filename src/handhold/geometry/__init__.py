"""Geometry without I/O: boxes, crops, cameras, alignment, pose from points, rotations,
distances.
"""
